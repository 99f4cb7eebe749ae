package hasql

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// socket is a connection to a node that fails with a reason of ours once it is cut.
type socket struct {
	net.Conn
	pool   *nodePool
	reason atomic.Pointer[error]
	asked  atomic.Bool // whether something was written since the last byte was read
	pooled atomic.Bool // whether the pool counts the connection
	owned  atomic.Bool // whether the user made it himself, with the configuration of a pooled connection
	given  atomic.Bool // whether the caller gave it up, by the deadline that pgx sets when a context ends
	over   bool        // whether nothing can be read any more; guarded by pool.mu
	// committed is whether the server has confirmed a COMMIT and then ended the session instead of the answer.
	committed bool
	readOnly  bool // whether its session began with default_transaction_read_only on
}

func (s *socket) cut(reason error) {
	if s.reason.CompareAndSwap(nil, &reason) {
		_ = s.Conn.Close()
	}
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n > 0 {
		s.pool.traffic.received(s)
	}
	if err != nil {
		err = s.told(err)
	}
	return n, err
}

func (s *socket) Write(b []byte) (int, error) {
	s.pool.traffic.sent(s)
	n, err := s.Conn.Write(b)
	if err != nil {
		if err = s.told(err); s.lost(err) {
			err = newEndError(s.pool.name, err, false)
		}
	}
	return n, err
}

// told returns the reason of a cut instead of its consequence.
func (s *socket) told(err error) error {
	if reason := s.reason.Load(); reason != nil {
		return *reason
	}
	return err
}

// lost reports whether err is the end of the connection, and not the end of a context of the caller's, by which pgx sets a
// deadline. An end that neither we nor the caller have caused suggests that the node is gone.
func (s *socket) lost(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.given.Store(true)
		return false
	}
	if s.reason.Load() == nil && !s.given.Load() && !errors.Is(err, net.ErrClosed) {
		s.pool.traffic.shake()
	}
	return true
}

func (s *socket) Close() error {
	n := s.pool
	n.mu.Lock()
	if _, open := n.sockets[s]; open && s.over {
		n.ended.Add(-1)
	}
	delete(n.sockets, s)
	n.mu.Unlock()
	n.traffic.settled(s)
	return s.Conn.Close()
}

// ended notes that nothing can be read any more.
func (s *socket) ended() {
	n := s.pool
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, open := n.sockets[s]; open && !s.over {
		n.ended.Add(1)
	}
	s.over = true
}

// closeEnded closes a connection that is about to be released, if it has ended and pgx does not know: what waits for a
// notification takes the first word of the end for a timeout, see endError.
func (n *nodePool) closeEnded(c *pgx.Conn) {
	s := socketOf(c)
	if s == nil || c.IsClosed() {
		return
	}
	n.mu.Lock()
	over := s.over
	n.mu.Unlock()
	if over {
		s.cut(net.ErrClosed) // so that closing writes to nobody
		_ = c.Close(context.Background())
	}
}

// answers is what pgx reads the messages of a server from. It is above TLS, which may end before its socket does.
type answers struct {
	io.Reader
	socket *socket
	end    *endError // once there was one: who asks again may be the same reader, and nothing comes behind it
}

// Read gives the end of the connection its error.
func (a *answers) Read(b []byte) (int, error) {
	if a.end != nil {
		return 0, a.end
	}
	n, err := a.Reader.Read(b)
	if err != nil && a.socket.lost(err) {
		a.end = newEndError(a.socket.pool.name, err, true)
		a.socket.ended()
		err = a.end
	}
	return n, err
}

// questions is what pgx writes its messages to. pgx takes a write of which nothing went out for safe to retry, but it may be
// the last one of many: of a COPY, whose source has been read meanwhile.
type questions struct {
	io.Writer
	socket *socket
}

func (q *questions) Write(b []byte) (int, error) {
	more := q.socket.asked.Load()
	n, err := q.Writer.Write(b)
	if err != nil && more {
		n = max(n, min(1, len(b)))
	}
	return n, err
}

const socketKey = "hasql: socket"

// socketOf returns the socket of a pooled connection.
func socketOf(c *pgx.Conn) *socket {
	s, _ := c.PgConn().CustomData()[socketKey].(*socket)
	return s
}

// socketBelow returns the socket that pgx's messages are written to in the end, nil if somebody else's wrapper hides it.
func socketBelow(w io.Writer) *socket {
	if t, ok := w.(*tls.Conn); ok {
		w = t.NetConn()
	}
	s, _ := w.(*socket)
	return s
}

// endError is the end of a connection, as its user learns of it. Whether the server has received and done what was sent
// before is unknown, so it is never safe to retry.
//
// In the simple protocol pgx 5.12 peeks at the beginning of an answer, drops the error of that, and then knows no more than
// "conn closed", which claims to be safe to retry though the statement was sent. It reads again only after a timeout. So
// this error is a timeout to whoever asks first, which is the peek, and none to who asks next, who would take it for
// the end of the caller's context.
type endError struct {
	err  error
	peek atomic.Bool // whether the next who asks is the peek
}

func newEndError(node string, cause error, peek bool) *endError {
	switch {
	case is[*NodeDownError](cause), errors.Is(cause, ErrClosed): // they say it all
	case errors.Is(cause, io.EOF):
		cause = io.ErrUnexpectedEOF
		fallthrough
	default:
		cause = fmt.Errorf("hasql: connection to %s ended: %w", node, cause)
	}
	e := &endError{err: cause}
	e.peek.Store(peek)
	return e
}

// ofEnd returns the end of a connection without the time-out that pgx takes it for in a COPY.
func ofEnd(err error) error {
	if end, ok := errors.AsType[*endError](err); ok {
		return end
	}
	return err
}

func (e *endError) Error() string     { return e.err.Error() }
func (e *endError) Unwrap() error     { return e.err }
func (e *endError) Timeout() bool     { return e.peek.Swap(false) }
func (e *endError) Temporary() bool   { return false }
func (e *endError) SafeToRetry() bool { return false }
