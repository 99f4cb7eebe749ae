package hasql

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxDials       = 2 // at once, for each node: a server that comes back is not to be run over
	minDialBackoff = 5 * time.Millisecond
	maxDialBackoff = time.Second
)

// dialGate limits the connection attempts to one node: so many at a time, and none for a while after one has failed.
type dialGate struct {
	places chan struct{} // one for each attempt in flight

	mu      sync.Mutex
	backoff time.Duration // 0 unless the last attempt failed
	retryAt time.Time
	refusal error // of the last attempt
}

// closed returns why no attempt may be made now, or nil.
func (g *dialGate) closed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Until(g.retryAt) > 0 {
		return &dialBackoffError{g.refusal}
	}
	return nil
}

func (g *dialGate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backoff, g.retryAt, g.refusal = 0, time.Time{}, nil
}

// leave ends an attempt that was let in.
func (g *dialGate) leave(err error) {
	<-g.places
	if err == nil {
		g.reset()
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backoff = min(max(2*g.backoff, minDialBackoff), maxDialBackoff)
	g.retryAt = time.Now().Add(jittered(g.backoff))
	g.refusal = redacted(err)
}

// enterDial lets a connection attempt in, or says why there shall be none now. dialTracer is its end.
func (n *nodePool) enterDial(ctx context.Context) error {
	if err := n.noDial(); err != nil {
		return err
	}
	select {
	case n.dials.places <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := n.noDial(); err != nil { // those before may have found out
		<-n.dials.places
		return err
	}
	return nil
}

func (n *nodePool) noDial() error {
	if down := n.severed.Load(); down != nil {
		return down
	}
	return n.dials.closed()
}

// dial opens a socket that cut can end. It also serves the cancel requests that pgx sends when it gives up a
// connection: to a node that is not up they fail at once instead of hanging for seconds and holding a slot.
func (n *nodePool) dial(ctx context.Context, attempt *dialTracer, dial dialFunc, network, addr string) (net.Conn, error) {
	if down := n.severed.Load(); down != nil {
		return nil, down
	}
	if ctx.Value(connects{}) == nil && !n.traffic.usable() {
		return nil, net.ErrClosed // a cancel request to a node that hangs
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn, pool: n}
	attempt.opened(s)
	n.mu.Lock()
	n.sockets[s] = struct{}{}
	n.mu.Unlock()
	if down := n.severed.Load(); down != nil { // meanwhile: it is set before sockets are cut
		s.cut(down)
	}
	return s, nil
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialBackoffError is why a node that has just refused a connection is not asked for another one yet.
type dialBackoffError struct{ err error }

func (e *dialBackoffError) Error() string { return "not dialled again yet: " + e.err.Error() }
func (e *dialBackoffError) Unwrap() error { return e.err }

// dialTracer is one connection attempt: it has a place in the gate, and learns which socket the connection got.
type dialTracer struct {
	queryTracer
	pool   *nodePool
	socket *socket // the last one that was opened
	over   atomic.Bool
}

// opened notes a socket of the attempt. Later ones carry cancel requests, or are the user's.
func (t *dialTracer) opened(s *socket) {
	if !t.over.Load() {
		t.socket = s
	}
}

// connects is the key of what tells the dials of an attempt to connect from those of cancel requests.
type connects struct{}

// TraceConnectStart marks the context of the attempt's dials.
func (*dialTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return context.WithValue(ctx, connects{}, true)
}

// TraceConnectEnd gives the place back, once: whoever connects with the configuration of a pooled connection of ours
// comes here too.
func (t *dialTracer) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	if t.over.Swap(true) {
		return
	}
	t.pool.dials.leave(data.Err)
	if data.Err != nil {
		t.pool.traffic.hint() // the monitor finds out whether it is the node
	} else if t.socket != nil {
		data.Conn.PgConn().CustomData()[socketKey] = t.socket
		t.pool.traffic.began(data.Conn.PgConn(), t.socket)
	}
}

// TraceQueryEnd notes a commit that the server has confirmed before it ended the session: pgx's Commit drops the tag.
func (*dialTracer) TraceQueryEnd(_ context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err == nil || data.CommandTag.String() != "COMMIT" || !disconnected(data.Err) {
		return
	}
	if s := socketOf(conn); s != nil {
		s.committed = true
	}
}
