package nodepool

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

// The shortest and the longest pause after a failed attempt to get a connection of a node.
const (
	MinDialBackoff = 5 * time.Millisecond
	MaxDialBackoff = time.Second
)

const (
	// FirstDials is how many dials to a node may be under way at once until one of them succeeds.
	FirstDials = 2

	maxDials = 1000 // may be under way at once, however many have succeeded
)

// dialGate limits the dials to one node that are under way at once. Each of them has a slot of the gate. The gate begins
// with FirstDials slots. A success adds (ConnectTimeout/2) / (duration of the dial) slots. So a fast server soon gets as
// many dials as its pool wants, and a distant or slow one gets them step by step. A server that a thousand clients return
// to gets no more dials than it can serve. After a failure no dial may begin for a while. Then the gate begins with
// FirstDials slots again.
type dialGate struct {
	timeout time.Duration
	free    chan struct{} // a token for each free slot

	mu          sync.Mutex
	slots       int           // the number of slots, free or taken
	limit       int           // the number of slots that there shall be; slots falls to it as dials end
	round       int           // counts failures and calls of reset
	backoff     time.Duration // the last pause; 0 unless the last attempt failed
	retryAt     time.Time     // when the pause ends
	lastFailure error         // of the last attempt; nil if it succeeded
}

func newDialGate(maxConns int, timeout time.Duration) *dialGate {
	g := &dialGate{timeout: timeout, free: make(chan struct{}, min(maxConns, maxDials))}
	g.allow(FirstDials)
	return g
}

// allow sets how many dials may be under way at once. If more are under way, they keep their slots until they leave.
func (g *dialGate) allow(limit int) {
	g.limit = min(limit, cap(g.free))
	for g.slots < g.limit {
		g.slots++
		g.free <- struct{}{}
	}
	for g.slots > g.limit {
		select {
		case <-g.free:
			g.slots--
		default:
			return
		}
	}
}

// backoffError returns the error of a dial that may not begin yet because another one has failed, or nil.
func (g *dialGate) backoffError() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Until(g.retryAt) > 0 {
		return &DialBackoffError{g.lastFailure}
	}
	return nil
}

// reset forgets what is known about the node, because the node has changed.
func (g *dialGate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.round++
	g.backoff, g.retryAt, g.lastFailure = 0, time.Time{}, nil
	g.allow(FirstDials)
}

// enter waits for a slot, and returns the round in which the dial begins.
func (g *dialGate) enter(ctx context.Context) (round int, err error) {
	select {
	case <-g.free:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.round, nil
}

// leave gives a slot back, or removes it if there are too many.
func (g *dialGate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.slots > g.limit {
		g.slots--
	} else {
		g.free <- struct{}{}
	}
}

// succeeded allows more dials at once.
func (g *dialGate) succeeded(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backoff, g.retryAt, g.lastFailure = 0, time.Time{}, nil
	g.allow(g.limit + int(min(g.timeout/2/max(took, 1), maxDials)))
}

// failed lets no dial begin for a while. Only the first failure of a round counts: the other dials of the round were under
// way at the same time.
func (g *dialGate) failed(round int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if round != g.round {
		return
	}
	g.round++
	g.backoff = min(max(2*g.backoff, MinDialBackoff), MaxDialBackoff)
	g.retryAt = time.Now().Add(random.Jittered(g.backoff))
	g.lastFailure = pgerr.Redacted(err)
	g.allow(FirstDials)
}

// enterDial waits until a dial may begin, and gives it a slot, or returns why it must not begin. The DialAttempt gives the
// slot back.
func (p *Pool) enterDial(ctx context.Context, attempt *DialAttempt) (err error) {
	if err := p.dialRefusal(); err != nil {
		return err
	}
	if attempt.round, err = p.dials.enter(ctx); err != nil {
		return err
	}
	attempt.began = time.Now()
	if err := p.dialRefusal(); err != nil { // another dial may have failed meanwhile
		p.dials.leave()
		return err
	}
	if e := p.extraOf(ctx); e != nil {
		e.dialledOnce.Do(func() { close(e.dialled) }) // pgxpool dials again within one Acquire if PrepareConn refuses what was dialled
	}
	return nil
}

// dialRefusal returns why no dial may begin now, or nil.
func (p *Pool) dialRefusal() error {
	if err := p.fencedError(); err != nil {
		return err
	}
	return p.dials.backoffError()
}

// fencedError returns the error of a dial to a node that is fenced, or nil.
func (p *Pool) fencedError() error {
	if reason := p.fenced.Load(); reason != nil {
		return &FencedError{*reason}
	}
	return nil
}

// dial opens a socket that Cut can end. pgx also uses it for the cancel requests that it sends when it gives up a
// connection. To a node that is not up, cancel requests fail at once. Otherwise they would hang for seconds, and the
// connection would take a place in the pool meanwhile.
func (p *Pool) dial(ctx context.Context, attempt *DialAttempt, dial dialFunc, network, addr string) (net.Conn, error) {
	if err := p.fencedError(); err != nil {
		return nil, err
	}
	if ctx.Value(connects{}) == nil && !p.traffic.reachable.Load() {
		return nil, net.ErrClosed // a cancel request to a node that hangs
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s := &Socket{Conn: conn, pool: p}
	attempt.opened(s)
	p.mu.Lock()
	p.sockets[s] = struct{}{}
	p.mu.Unlock()
	if down := p.fenced.Load(); down != nil { // fenced meanwhile: fenced is set before sockets are cut
		s.cut(*down)
	}
	return s, nil
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// DialAttempt is one attempt to connect, by the pool or by a guest. It has a slot of the dial gate until the attempt has
// succeeded or failed. As a tracer of pgx it learns when that is, and which socket the connection got.
type DialAttempt struct {
	queryTracer
	pool     *Pool
	began    time.Time          // when it got its slot
	round    int                // the round of the gate at that time
	socket   *Socket            // the last one that was opened
	finished atomic.Bool        // whether the attempt has ended and its slot was given back
	done     context.CancelFunc // releases its context

	guest         bool        // whether a guest connects, and not the node's pool
	resets        uint64      // the pool's resets when the attempt began
	guestFinished atomic.Bool // whether FinishGuest was called
}

// opened records a socket of the attempt. Later sockets carry cancel requests, or are those of
// connections that the user makes with the configuration of this one.
func (a *DialAttempt) opened(s *Socket) {
	if !a.finished.Load() {
		a.socket = s
	}
}

// connects is a context key. It tells dials that connect from dials of cancel requests.
type connects struct{}

// TraceConnectStart marks the context of the attempt's dials, and makes it end with the pool. A connection that the user
// makes with the configuration of a pooled connection does not end with the pool.
func (a *DialAttempt) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	if !a.finished.Load() {
		ctx, a.done = a.pool.untilEnd(ctx)
	}
	return context.WithValue(ctx, connects{}, true)
}

// TraceConnectEnd ends the attempt, once. A connection that the user makes with the configuration of a
// pooled connection comes here too.
func (a *DialAttempt) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	if a.finished.Swap(true) {
		return
	}
	a.done()
	a.endDial(data.Err)
	if data.Err != nil {
		a.pool.traffic.observer.SuggestCheck() // the monitor finds out whether the node is the reason
	} else if a.socket != nil {
		data.Conn.PgConn().CustomData()[socketKey] = a.socket
		a.pool.traffic.noteSession(data.Conn.PgConn(), a.socket)
	}
	if a.guest {
		a.FinishGuest(data.Err)
	}
}

// TraceQueryEnd notes a commit that the server has confirmed before it sent an error: pgx's Commit drops the tag. A server that
// logs the duration of statements looks after the commit for an order to end the session, or to cancel the statement.
func (*DialAttempt) TraceQueryEnd(_ context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err == nil || data.CommandTag.String() != "COMMIT" {
		return
	}
	if s := socketOf(conn); s != nil {
		s.committed = true
	}
}

// endDial tells the gate whether the attempt succeeded, and gives the slot back.
func (a *DialAttempt) endDial(err error) {
	if err == nil {
		a.pool.dials.succeeded(time.Since(a.began))
	} else {
		a.pool.dials.failed(a.round, err)
	}
	a.pool.dials.leave()
}

// ReturnSlot gives the slot back if no connection was attempted.
func (a *DialAttempt) ReturnSlot() {
	if !a.finished.Swap(true) {
		a.pool.dials.leave()
	}
}

// Made reports whether the attempt has made the connection.
func (a *DialAttempt) Made(conn *pgx.Conn) bool { return a.socket != nil && socketOf(conn) == a.socket }
