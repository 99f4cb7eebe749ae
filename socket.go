package hasql

import (
	"errors"
	"net"
	"sync/atomic"
)

// socket is a connection to a node that fails with a reason of ours once it is cut.
type socket struct {
	net.Conn
	pool   *nodePool
	reason atomic.Pointer[error]
	told   atomic.Bool // whether a Read has returned the reason
	asked  atomic.Bool // whether something was written since the last byte was read
	pooled atomic.Bool // whether the pool counts the connection
	given  atomic.Bool // whether the caller gave it up, by the deadline that pgx sets when a context ends
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
	if err == nil {
		return n, nil
	}
	if reason := s.reason.Load(); reason == nil {
		s.lost(err)
	} else if err = *reason; !s.told.Swap(true) {
		err = &cutError{reason: err}
	}
	return n, err
}

func (s *socket) Write(b []byte) (int, error) {
	s.pool.traffic.sent(s)
	n, err := s.Conn.Write(b)
	if err == nil {
		return n, nil
	}
	if reason := s.reason.Load(); reason == nil {
		s.lost(err)
	} else {
		err = *reason
	}
	return n, err
}

// lost notes that a connection ended, unless it was its user who ended it.
func (s *socket) lost(err error) {
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		s.given.Store(true)
	} else if !s.given.Load() && !errors.Is(err, net.ErrClosed) {
		s.pool.traffic.shake()
	}
}

// cutError is the first thing that a reader of a cut socket learns. pgx peeks at the beginning of an answer, drops the
// error of that, and then knows no more than "conn closed" (which it takes for safe to retry, though the statement was
// sent). Only after a timeout does it read again, and so gets to see the reason. So this is a timeout to whoever asks
// first, which is the peek, and none to who asks next, who would take it for the end of the caller's context.
type cutError struct {
	reason error
	asked  atomic.Bool
}

func (e *cutError) Error() string   { return e.reason.Error() }
func (e *cutError) Unwrap() error   { return e.reason }
func (e *cutError) Timeout() bool   { return !e.asked.Swap(true) }
func (e *cutError) Temporary() bool { return true } // so that crypto/tls does not keep it for ever

func (s *socket) Close() error {
	s.pool.mu.Lock()
	delete(s.pool.sockets, s)
	s.pool.mu.Unlock()
	s.pool.traffic.settled(s)
	return s.Conn.Close()
}
