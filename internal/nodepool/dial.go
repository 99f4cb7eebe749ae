package nodepool

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

// The shortest and the longest pause between two attempts to get a connection of a node that fails them.
const (
	MinDialBackoff = 5 * time.Millisecond
	MaxDialBackoff = time.Second
)

const (
	// FirstDials is how many dials are let in at once to a node of which nothing better is known.
	FirstDials = 2

	maxDials = 1000 // at once, to one that proved to be healthy
)

// dialGate limits the dials to one node. It begins with FirstDials at a time. Each success allows more: as many as the
// server could complete within half of ConnectTimeout if every client did the same. So a fast server soon gets as many
// dials as its pool wants, and a distant or slow one gets them step by step. A server that a thousand clients return to
// gets no more dials than it can serve. After a failure no dial is allowed for a while, and then the gate begins with
// FirstDials again.
type dialGate struct {
	timeout time.Duration
	free    chan struct{} // a token for each free place

	mu      sync.Mutex
	places  int           // the number of places, free or taken
	limit   int           // the number of places that there shall be
	era     int           // counts failures and calls of begin
	backoff time.Duration // 0 unless the last attempt failed
	retryAt time.Time
	refusal error // of the last attempt
}

func newDialGate(maxConns int, timeout time.Duration) *dialGate {
	g := &dialGate{timeout: timeout, free: make(chan struct{}, min(maxConns, maxDials))}
	g.allow(FirstDials)
	return g
}

// allow sets how many dials there may be at a time. If more are under way, those keep their places until they leave.
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

// closed returns why no dial may begin now, or nil.
func (g *dialGate) closed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Until(g.retryAt) > 0 {
		return &DialBackoffError{g.refusal}
	}
	return nil
}

// begin forgets what is known about the node, because the node has changed.
func (g *dialGate) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.era++
	g.backoff, g.retryAt, g.refusal = 0, time.Time{}, nil
	g.allow(FirstDials)
}

// enter waits for a place, and returns the era in which the dial begins.
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

// leave gives a place back, or removes it if there are too many.
func (g *dialGate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.places > g.limit {
		g.places--
	} else {
		g.free <- struct{}{}
	}
}

// succeeded allows more dials at a time.
func (g *dialGate) succeeded(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backoff, g.retryAt, g.refusal = 0, time.Time{}, nil
	g.allow(g.limit + int(min(g.timeout/2/max(took, 1), maxDials)))
}

// failed lets no dial begin for a while. Of several dials that were under way together only the first failure counts.
func (g *dialGate) failed(era int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if era != g.era {
		return
	}
	g.era++
	g.backoff = min(max(2*g.backoff, MinDialBackoff), MaxDialBackoff)
	g.retryAt = time.Now().Add(random.Jittered(g.backoff))
	g.refusal = pgerr.Redacted(err)
	g.allow(FirstDials)
}

// enterDial waits until a dial may begin, or returns why it must not. The Attempt gives the place back.
func (n *Pool) enterDial(ctx context.Context, attempt *Attempt) (err error) {
	if err := n.noDial(); err != nil {
		return err
	}
	if attempt.era, err = n.dials.enter(ctx); err != nil {
		return err
	}
	attempt.began = time.Now()
	if err := n.noDial(); err != nil { // another dial may have failed meanwhile
		n.dials.leave()
		return err
	}
	if e := n.extraOf(ctx); e != nil {
		e.letIn.Do(func() { close(e.dialled) }) // pgxpool dials again within one Acquire if PrepareConn refuses what was dialled
	}
	return nil
}

func (n *Pool) noDial() error {
	if err := n.noWay(); err != nil {
		return err
	}
	return n.dials.closed()
}

// noWay returns why the node must not be dialled at all now, or nil.
func (n *Pool) noWay() error {
	if reason := n.fenced.Load(); reason != nil {
		return &FencedError{*reason}
	}
	return nil
}

// dial opens a socket that Cut can end. pgx also uses it for the cancel requests that it sends when it gives up a
// connection. To a node that is not up these fail at once, instead of hanging for seconds and holding a place in the
// pool.
func (n *Pool) dial(ctx context.Context, attempt *Attempt, dial dialFunc, network, addr string) (net.Conn, error) {
	if err := n.noWay(); err != nil {
		return nil, err
	}
	if ctx.Value(connects{}) == nil && !n.traffic.reachable.Load() {
		return nil, net.ErrClosed // a cancel request to a node that hangs
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s := &Socket{Conn: conn, pool: n}
	attempt.opened(s)
	n.mu.Lock()
	n.sockets[s] = struct{}{}
	n.mu.Unlock()
	if down := n.fenced.Load(); down != nil { // fenced meanwhile: fenced is set before sockets are cut
		s.cut(*down)
	}
	return s, nil
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)
