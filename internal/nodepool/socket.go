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
	pool      *Pool
	reason    atomic.Pointer[error]
	awaiting  atomic.Bool // whether something was written since the last byte was read
	counted   atomic.Bool // whether the pool counts the connection
	owned     atomic.Bool // whether the user made it, with the configuration of a pooled connection
	readEnded bool        // whether nothing can be read any more; guarded by pool.mu
	// committed is whether the server has confirmed a COMMIT and then sent an error.
	committed bool
	// unreplicated is whether the server has told that it gave up waiting for a synchronous standby after a commit.
	unreplicated bool
	written      atomic.Uint64 // the number of writes, without that of terminateMessage
	readOnly     bool          // whether its session began with default_transaction_read_only on

	guest  atomic.Bool // whether it is counted as one
	idle   atomic.Bool // of a guest: whether it is in no statement and no transaction
	resets uint64      // of a guest: the pool's resets when it connected
	usedAt time.Time   // of a guest: when somebody last began to use it
	// allowedAt is when AllowUse allowed the last use of a guest, in nanoseconds since epoch. It is 0 once the server has
	// answered.
	allowedAt atomic.Int64
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
		err = s.cutReasonOr(err)
	}
	return n, err
}

func (s *Socket) Write(b []byte) (int, error) {
	s.pool.traffic.sent(s)
	n, err := s.Conn.Write(b)
	if err != nil {
		if err = s.cutReasonOr(err); s.noteIfLost(err) {
			err = s.newEndError(err, false)
		}
	}
	return n, err
}

// cutReasonOr returns the reason if the socket was cut, else err. A cut causes errors that do not tell its reason.
func (s *Socket) cutReasonOr(err error) error {
	if reason := s.reason.Load(); reason != nil {
		return *reason
	}
	return err
}

// noteIfLost reports whether err means that the connection has ended. An error by the deadline that pgx sets when a caller's
// context ends does not mean that. If neither hasql nor the caller has ended the connection, noteIfLost notes a loss, because
// the node may be gone.
func (s *Socket) noteIfLost(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if s.reason.Load() == nil && !errors.Is(err, net.ErrClosed) {
		s.pool.traffic.noteLoss()
	}
	return true
}

func (s *Socket) Close() error {
	p := s.pool
	p.mu.Lock()
	if _, open := p.sockets[s]; open && s.readEnded {
		p.endedSockets.Add(-1)
	}
	delete(p.sockets, s)
	p.mu.Unlock()
	p.traffic.done(s)
	s.uncountGuest()
	if err := s.Conn.Close(); s.reason.Load() == nil {
		return err
	}
	return nil // the socket was cut before; an error would surprise a caller that closes a sql.DB
}

// noteReadEnd records that nothing can be read from the socket any more.
func (s *Socket) noteReadEnd() {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, open := p.sockets[s]; open && !s.readEnded {
		p.endedSockets.Add(1)
	}
	s.readEnded = true
}

// HasEnded reports whether a connection was cut, or has ended by itself.
func HasEnded(c *pgx.Conn) bool {
	s := socketOf(c)
	return s != nil && (s.reason.Load() != nil || s.pool.hasReadEnded(s))
}

// hasReadEnded reports whether nothing can be read from a socket any more.
func (p *Pool) hasReadEnded(s *Socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.readEnded
}

// closeEnded closes a connection before its release if it has ended and pgx does not know that. A call that waits for a
// notification takes the first sign of the end for a timeout; see EndError.
func (p *Pool) closeEnded(c *pgx.Conn) {
	s := socketOf(c)
	if s == nil || c.IsClosed() {
		return
	}
	if p.hasReadEnded(s) {
		s.cut(net.ErrClosed) // so that Close writes nothing
		_ = c.Close(context.Background())
	}
}

// idleStatus is the end of PostgreSQL's answer while no transaction is open (ReadyForQuery). If a read splits
// this message, the session counts as busy until the next answer.
var idleStatus = []byte{'Z', 0, 0, 0, 5, 'I'}

// messageReader is what pgx reads the server's messages from. It notes when a guest becomes idle, and when nothing more can be
// read. It is above TLS, because TLS may end before its socket does.
type messageReader struct {
	io.Reader
	socket *Socket
	end    *EndError // the end, once it was read: every later Read returns it again
}

// Read turns the end of the connection into an EndError.
func (r *messageReader) Read(b []byte) (int, error) {
	if r.end != nil {
		return 0, r.end
	}
	n, err := r.Reader.Read(b)
	if bytes.HasSuffix(b[:n], idleStatus) {
		r.socket.markIdle()
	}
	if err != nil && r.socket.noteIfLost(err) {
		r.end = r.socket.newEndError(err, true)
		r.socket.noteReadEnd()
		err = r.end
	}
	return n, err
}

// terminateMessage is PostgreSQL's message Terminate, by which a client ends a connection.
var terminateMessage = []byte{'X', 0, 0, 0, 4}

// messageWriter is what pgx writes its messages to. If a write fails before one byte of it went out, pgx says that a retry is
// safe. That is wrong if earlier writes of the same request went out: in a COPY, for example, whose source has been read
// meanwhile. So messageWriter then reports that one byte was written. After a write of data has failed, pgx closes the
// connection, writes once more, and returns the error of this last write. So messageWriter also remembers that a write failed.
type messageWriter struct {
	io.Writer
	socket *Socket
	failed bool // whether a write has failed
}

func (w *messageWriter) Write(b []byte) (int, error) {
	w.socket.markBusy()
	if !bytes.Equal(b, terminateMessage) {
		w.socket.written.Add(1)
	}
	partial := w.failed || w.socket.awaiting.Load()
	n, err := w.Writer.Write(b)
	if err != nil && partial {
		n = max(n, min(1, len(b)))
	}
	w.failed = w.failed || err != nil
	return n, err
}

const socketKey = "hasql: socket"

// Of returns the pool of the node that a connection leads to. The connection may be a pooled one or a guest. It returns nil if
// the node is not known.
func Of(c *pgx.Conn) *Pool {
	if s := socketOf(c); s != nil {
		return s.pool
	}
	return nil
}

// socketOf returns the socket of a pooled connection or a guest, or nil if it is not known.
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
