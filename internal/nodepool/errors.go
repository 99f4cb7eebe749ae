package nodepool

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/pgerr"
)

// EndError is the error that a user of a connection gets when the connection has ended. Nobody knows whether the server
// has received and done what was sent before, so a retry is never safe.
//
// In the simple protocol pgx 5.12 peeks at the beginning of an answer and drops the error of that peek. Then it returns
// "conn closed", which claims to be safe to retry although the statement was sent. Only after a timeout does pgx read
// again. So EndError is a timeout for the first caller of Timeout, which is the peek. It is no timeout for the next
// caller, which would take it for the end of the caller's context.
type EndError struct {
	err  error
	peek atomic.Bool // whether the next caller of Timeout is the peek
}

// NewEndError makes the error of a connection to a node that ended because of cause.
func NewEndError(node string, cause error) *EndError {
	if errors.Is(cause, io.EOF) {
		cause = io.ErrUnexpectedEOF
	}
	return &EndError{err: fmt.Errorf("hasql: connection to %s ended: %w", node, cause)}
}

// newEndError makes the error of a socket. peek says that the first caller of Timeout will be pgx's peek, which is so
// when reading has ended.
func (s *Socket) newEndError(cause error, peek bool) (e *EndError) {
	reason := s.reason.Load()
	if reason != nil && *reason != net.ErrClosed && errors.Is(cause, *reason) {
		e = &EndError{err: cause} // the reason of the cut says everything
	} else {
		e = NewEndError(s.pool.name, cause)
	}
	e.peek.Store(peek)
	return e
}

// OfEnd returns the EndError in err, or err if there is none. In a COPY pgx wraps an EndError in a time-out, which
// would mislead the caller.
func OfEnd(err error) error {
	if end, ok := errors.AsType[*EndError](err); ok {
		return end
	}
	return err
}

func (e *EndError) Error() string { return e.err.Error() }
func (e *EndError) Unwrap() error { return e.err }

// Timeout returns true once, for pgx's peek.
func (e *EndError) Timeout() bool { return e.peek.Swap(false) }

// Temporary returns false. Together with Timeout it makes EndError a net.Error.
func (e *EndError) Temporary() bool { return false }

// SafeToRetry returns false, see pgconn.SafeToRetry.
func (e *EndError) SafeToRetry() bool { return false }

// IsEnd reports whether err says that the connection has ended: by a FATAL error of the server, or without one.
func IsEnd(err error) bool { return pgerr.Is[*EndError](err) || pgerr.IsFatal(err) }

// FencedError is the error of a connection that was not made because the node is fenced, or that cannot be used because the
// node was fenced while it was made. It contains the reason given to Fence.
type FencedError struct{ Err error }

func (e *FencedError) Error() string { return e.Err.Error() }
func (e *FencedError) Unwrap() error { return e.Err }

// SafeToRetry returns true: nothing was sent.
func (e *FencedError) SafeToRetry() bool { return true }

// DialBackoffError says that a node which has just refused a connection is not dialled again yet.
type DialBackoffError struct{ Err error }

func (e *DialBackoffError) Error() string { return "not dialled again yet: " + e.Err.Error() }
func (e *DialBackoffError) Unwrap() error { return e.Err }

// SafeToRetry returns true: nothing was sent.
func (e *DialBackoffError) SafeToRetry() bool { return true }

// GenerationEndedError ends the wait for a connection because the node has changed.
type GenerationEndedError struct{ node string }

func (e *GenerationEndedError) Error() string { return "node " + e.node + " has changed" }

// LostConnError is the error of a pooled connection that turned out to be dead before it was lent. Other connections may
// work.
type LostConnError struct{ err error }

func (e *LostConnError) Error() string { return "pooled connection lost: " + e.err.Error() }
func (e *LostConnError) Unwrap() error { return e.err }

// IsDialError reports whether err is a failure to connect, so that another node may be tried. An error of the user's
// hooks is none.
func IsDialError(err error) bool {
	return pgerr.Is[*DialBackoffError](err) || pgerr.Is[*FencedError](err) || pgerr.Is[*pgerr.ConnectError](err) || pgerr.Is[*pgconn.ConnectError](err)
}
