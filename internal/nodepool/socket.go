package nodepool

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Socket is a connection to a node. After it was cut it fails with the reason of the cut.
type Socket struct {
	net.Conn
	pool     *Pool
	reason   atomic.Pointer[error]
	awaiting atomic.Bool // whether something was written since the last byte was read
	counted  atomic.Bool // whether the pool counts the connection
	owned    atomic.Bool // whether the user made it, with the configuration of a pooled connection
	over     bool        // whether nothing can be read any more; guarded by pool.mu
	// committed is whether the server has confirmed a COMMIT and then sent an error.
	committed bool
	// unreplicated is whether the server has told that it gave up to wait for a synchronous standby behind a commit.
	unreplicated bool
	written      atomic.Uint64 // how often something was written
	readOnly     bool          // whether its session began with default_transaction_read_only on

	guest  atomic.Bool // whether it is counted as one
	quiet  atomic.Bool // of a guest: whether it is in no statement and no transaction
	resets uint64      // of a guest: that of the pool when it connected
	usedAt time.Time   // of a guest: when somebody last began to use it
	// claimed is when a guest was allowed to be used once more, if nothing was answered since: nanoseconds since epoch, else 0.
	claimed atomic.Int64
}

// cut ends the socket. It returns whether it was open.
func (s *Socket) cut(reason error) bool {
	return s.reason.CompareAndSwap(nil, &reason) && s.Conn.Close() == nil
}

func (s *Socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n > 0 {
		s.pool.traffic.received(s)
	}
	if err != nil {
		err = s.told(err)
	}
	return n, err
}

func (s *Socket) Write(b []byte) (int, error) {
	s.pool.traffic.sent(s)
	n, err := s.Conn.Write(b)
	if err != nil {
		if err = s.told(err); s.lost(err) {
			err = s.newEndError(err, false)
		}
	}
	return n, err
}

// told returns the reason of a cut instead of the error that the cut causes.
func (s *Socket) told(err error) error {
	if reason := s.reason.Load(); reason != nil {
		return *reason
	}
	return err
}

// lost reports whether err is the end of the connection. The end of a caller's context is not: pgx sets a deadline for
// it. If neither hasql nor the caller has ended the connection, the node may be gone.
func (s *Socket) lost(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if s.reason.Load() == nil && !errors.Is(err, net.ErrClosed) {
		s.pool.traffic.noteLoss()
	}
	return true
}

func (s *Socket) Close() error {
	n := s.pool
	n.mu.Lock()
	if _, open := n.sockets[s]; open && s.over {
		n.endedSockets.Add(-1)
	}
	delete(n.sockets, s)
	n.mu.Unlock()
	n.traffic.done(s)
	s.leave()
	if err := s.Conn.Close(); s.reason.Load() == nil {
		return err
	}
	return nil // the socket was cut before; an error would surprise a caller that closes a sql.DB
}

// noteEnd records that nothing can be read from the socket any more.
func (s *Socket) noteEnd() {
	n := s.pool
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, open := n.sockets[s]; open && !s.over {
		n.endedSockets.Add(1)
	}
	s.over = true
}

// isOver reports whether nothing can be read from a socket any more.
func (n *Pool) isOver(s *Socket) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return s.over
}

// closeEnded closes a connection before its release if it has ended and pgx does not know that. A call that waits for a
// notification takes the first sign of the end for a timeout; see EndError.
func (n *Pool) closeEnded(c *pgx.Conn) {
	s := socketOf(c)
	if s == nil || c.IsClosed() {
		return
	}
	if n.isOver(s) {
		s.cut(net.ErrClosed) // so that Close writes nothing
		_ = c.Close(context.Background())
	}
}

// idleStatus is the end of PostgreSQL's answer while no transaction is open (ReadyForQuery). If a read begins in its
// middle, the session counts as busy until its next answer.
var idleStatus = []byte{'Z', 0, 0, 0, 5, 'I'}

// answers is where pgx reads the server's messages. It is above TLS, which may end before its socket does.
type answers struct {
	io.Reader
	socket *Socket
	end    *EndError // the end, once it was read: every later Read returns it again
}

// Read turns the end of the connection into an EndError.
func (a *answers) Read(b []byte) (int, error) {
	if a.end != nil {
		return 0, a.end
	}
	n, err := a.Reader.Read(b)
	if bytes.HasSuffix(b[:n], idleStatus) {
		a.socket.rest()
	}
	if err != nil && a.socket.lost(err) {
		a.end = a.socket.newEndError(err, true)
		a.socket.noteEnd()
		err = a.end
	}
	return n, err
}

// farewell is what a client sends that gives a connection up (Terminate).
var farewell = []byte{'X', 0, 0, 0, 4}

// questions is what pgx writes its messages to. pgx takes a write of which nothing went out for safe to retry, but it may be
// the last one of many: of a COPY, whose source has been read meanwhile. When a write of data fails pgx closes the connection,
// writes once more, and returns the error of that.
type questions struct {
	io.Writer
	socket *Socket
	failed bool // whether a write has failed
}

func (q *questions) Write(b []byte) (int, error) {
	q.socket.stir()
	if !bytes.Equal(b, farewell) {
		q.socket.written.Add(1)
	}
	more := q.failed || q.socket.awaiting.Load()
	n, err := q.Writer.Write(b)
	if err != nil && more {
		n = max(n, min(1, len(b)))
	}
	q.failed = q.failed || err != nil
	return n, err
}

const socketKey = "hasql: socket"

// Of returns the pool of a connection that it has lent, nil if that can't be told.
func Of(c *pgx.Conn) *Pool {
	if s := socketOf(c); s != nil {
		return s.pool
	}
	return nil
}

// socketOf returns the socket of a pooled connection.
func socketOf(c *pgx.Conn) *Socket {
	s, _ := c.PgConn().CustomData()[socketKey].(*Socket)
	return s
}

// socketBelow returns the socket below a writer of pgx. It returns nil if a wrapper of the user hides it.
func socketBelow(w io.Writer) *Socket {
	if t, ok := w.(*tls.Conn); ok {
		w = t.NetConn()
	}
	s, _ := w.(*Socket)
	return s
}
