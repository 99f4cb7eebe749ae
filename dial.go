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
	firstDials     = 2    // at once, to a node of which nothing better is known
	maxDials       = 1000 // at once, to one that proved to be healthy
	minDialBackoff = 5 * time.Millisecond
	maxDialBackoff = time.Second
)

// dialGate limits the connection attempts to one node. It begins with firstDials at a time. Each that succeeds makes room
// for more: for as many as the server could serve within half of ConnectTimeout if everybody else did the same. So a server
// that works well is dialled as often as its pool wants at once, one that is far away or slow by and by, and one that a
// thousand clients come back to no more often than it can stand. After a failure none is let in for a while, and the
// beginning is made anew.
type dialGate struct {
	timeout time.Duration
	free    chan struct{} // a token for each place that nobody has

	mu      sync.Mutex
	places  int           // how many there are, those that somebody has included
	limit   int           // how many there shall be
	era     int           // counts failures and new beginnings
	backoff time.Duration // 0 unless the last attempt failed
	retryAt time.Time
	refusal error // of the last attempt
}

func newDialGate(maxConns int, timeout time.Duration) *dialGate {
	g := &dialGate{timeout: timeout, free: make(chan struct{}, min(maxConns, maxDials))}
	g.allow(firstDials)
	return g
}

// allow sets how many attempts there may be at a time. Those that are under way and too many now keep their place until
// they leave.
func (g *dialGate) allow(limit int) {
	g.limit = min(limit, cap(g.free))
	for g.places < g.limit {
		g.places++
		g.free <- struct{}{}
	}
	for g.places > g.limit {
		select {
		case <-g.free:
			g.places--
		default:
			return
		}
	}
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

// begin forgets what is known of the node: it is another now, or has something else to do.
func (g *dialGate) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.era++
	g.backoff, g.retryAt, g.refusal = 0, time.Time{}, nil
	g.allow(firstDials)
}

// enter waits for a place, and returns the era that the attempt belongs to.
func (g *dialGate) enter(ctx context.Context) (era int, err error) {
	select {
	case <-g.free:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.era, nil
}

// leave gives a place back, unless there are too many.
func (g *dialGate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.places > g.limit {
		g.places--
	} else {
		g.free <- struct{}{}
	}
}

// succeeded makes room for more.
func (g *dialGate) succeeded(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backoff, g.retryAt, g.refusal = 0, time.Time{}, nil
	g.allow(g.limit + int(min(g.timeout/2/max(took, 1), maxDials)))
}

// failed lets none in for a while. Of those that were under way together only the first failure counts.
func (g *dialGate) failed(era int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if era != g.era {
		return
	}
	g.era++
	g.backoff = min(max(2*g.backoff, minDialBackoff), maxDialBackoff)
	g.retryAt = time.Now().Add(jittered(g.backoff))
	g.refusal = redacted(err)
	g.allow(firstDials)
}

// enterDial lets a connection attempt in, or says why there shall be none now. dialTracer is its end.
func (n *nodePool) enterDial(ctx context.Context, attempt *dialTracer) (err error) {
	if err := n.noDial(); err != nil {
		return err
	}
	if attempt.era, err = n.dials.enter(ctx); err != nil {
		return err
	}
	attempt.began = time.Now()
	if err := n.noDial(); err != nil { // those before may have found out
		n.dials.leave()
		return err
	}
	if e := n.extraOf(ctx); e != nil {
		e.letIn.Do(func() { close(e.dialled) }) // pgxpool dials again within one Acquire if PrepareConn refuses what was dialled
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
	began  time.Time // when it was let in
	era    int       // of the gate at that time
	socket *socket   // the last one that was opened
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
	t.left(data.Err)
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

// left gives the place back, and tells the gate what came of the attempt.
func (t *dialTracer) left(err error) {
	if err == nil {
		t.pool.dials.succeeded(time.Since(t.began))
	} else {
		t.pool.dials.failed(t.era, err)
	}
	t.pool.dials.leave()
}
