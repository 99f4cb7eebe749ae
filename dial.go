package hasql

import (
	"context"
	"net"
	"time"
)

const (
	maxDials       = 2 // at once, for each node: a server that comes back is not to be run over
	minDialBackoff = 5 * time.Millisecond
	maxDialBackoff = time.Second
)

// enterDial admits a connection attempt, or says why there shall be none now. poolTracer.TraceConnectEnd is its end.
func (n *nodePool) enterDial(ctx context.Context) error {
	if down := n.severed.Load(); down != nil {
		return down
	}
	n.mu.Lock()
	refusal, wait := n.refusal, time.Until(n.retryAt)
	n.mu.Unlock()
	if wait > 0 {
		return &dialBackoffError{n.name, refusal}
	}
	select {
	case n.dials <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *nodePool) leaveDial(err error) {
	select {
	case <-n.dials:
	default: // a tracer of the user's that called ours twice
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		n.backoff, n.retryAt, n.refusal = 0, time.Time{}, nil
		return
	}
	n.backoff = min(max(2*n.backoff, minDialBackoff), maxDialBackoff)
	n.retryAt = time.Now().Add(jittered(n.backoff))
	n.refusal = err
}

// dial opens a socket that cut can end. It also serves the cancel requests that pgx sends when it gives up a
// connection: to a node that is cut off they fail at once instead of hanging for seconds and holding a slot.
func (n *nodePool) dial(ctx context.Context, dial dialFunc, network, addr string) (net.Conn, error) {
	if down := n.severed.Load(); down != nil {
		return nil, down
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn, pool: n}
	n.mu.Lock()
	n.sockets[s] = struct{}{}
	n.mu.Unlock()
	if down := n.severed.Load(); down != nil { // meanwhile: sever sets it before it looks for sockets
		s.cut(down)
	}
	return s, nil
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialBackoffError is why a node that has just refused a connection is not asked for another one yet.
type dialBackoffError struct {
	node string
	err  error
}

func (e *dialBackoffError) Error() string {
	return "not dialled again yet: " + e.err.Error()
}
func (e *dialBackoffError) Unwrap() error { return e.err }
