package nodepool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgerr"
)

// Pool is the pool of one node: a pgxpool.Pool that can be fenced off from its node and opened again.
type Pool struct {
	*Load
	name    string
	pool    *pgxpool.Pool
	traffic traffic
	dials   *dialGate

	// dialContext ends with the pool, and every connection that is being made ends with dialContext. pgxpool makes
	// connections for MinConns under a context of its own that lasts a minute, and pgxpool's Close waits for them.
	dialContext context.Context
	stop        context.CancelFunc

	// generation ends when the node changes. Then an acquire that waits for a connection of the node looks for another
	// node.
	generation atomic.Pointer[Generation]
	// fenced is set while the node is down, stale or foreign. Dials fail with it at once.
	fenced atomic.Pointer[error]

	hookFree      bool          // whether no hook of the user runs inside Acquire or Release
	pingTimeout   time.Duration // limit of a ping; 0 if there is none
	needPing      sync.Map      // the *pgx.Conn that need a ping before they are lent
	needPingCount atomic.Int64  // the number of connections in needPing
	minConns      int           // how many connections the pool shall have open
	filling       atomic.Int32  // how many tasks of FillTask have not ended

	template *pgxpool.Config // for guests: the user's configuration and the handlers of traffic.listen
	resets   atomic.Uint64   // the number of calls of Reset
	guests   sync.WaitGroup

	endedSockets atomic.Int64 // the number of open sockets from which nothing can be read any more

	mu       sync.Mutex
	sockets  map[*Socket]struct{} // every open one
	hijacked hijackSamples
	closed   bool // whether no guest may connect any more
}

// DefaultConnectTimeout is the ConnectTimeout that the dial gate assumes if the configuration has none. It does not limit any
// dial.
const DefaultConnectTimeout = 2 * time.Second

// New makes the pool of a node from a copy of config. The user's hooks and tracer keep working. observer learns what the
// traffic suggests. Only the values of ctx are used.
func New(ctx context.Context, name string, config *pgxpool.Config, observer TrafficObserver) (p *Pool, err error) {
	config = config.Copy()
	if config.ShouldPing == nil {
		config.ShouldPing = pingLongIdle
	}
	//lint:ignore SA1019 users may still set the deprecated BeforeAcquire
	hooked := config.PrepareConn != nil || config.BeforeAcquire != nil || config.AfterRelease != nil
	p = &Pool{
		name:    name,
		Load:    NewLoad(int(config.MaxConns)),
		dials:   newDialGate(int(config.MaxConns), cmp.Or(config.ConnConfig.ConnectTimeout, DefaultConnectTimeout)),
		sockets: make(map[*Socket]struct{}),

		hookFree:    !hooked,
		pingTimeout: config.PingTimeout,
		minConns:    int(max(config.MinConns, config.MinIdleConns)),
	}
	p.dialContext, p.stop = context.WithCancel(context.Background())
	p.generation.Store(newGeneration())
	p.traffic.observer = observer
	p.traffic.listen(config.ConnConfig)
	p.template = config.Copy()
	config.ShouldPing = p.deferValidation(config.ShouldPing)
	p.hookConnects(config)
	config.ConnConfig.Tracer = withTracer(config.ConnConfig.Tracer, &releaseTracer{pool: p})

	defer func() {
		if r := recover(); r != nil { // pgxpool panics for a Config that its ParseConfig has not made
			err = fmt.Errorf("%v", r)
		}
	}()
	p.pool, err = pgxpool.NewWithConfig(ctx, config)
	return p, err
}

// hookConnects wraps the user's hooks. Every connection goes through the dial gate, has a Socket, and is counted for as
// long as the pool has it.
func (p *Pool) hookConnects(config *pgxpool.Config) {
	before, after, closing, tracer := config.BeforeConnect, config.AfterConnect, config.BeforeClose, config.ConnConfig.Tracer
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if !awaited(ctx) {
			return errNotAwaited
		}
		if e := p.extraOf(ctx); e != nil {
			e.releaseHeld()
		}
		ctx, cancel := p.untilEnd(ctx)
		defer cancel()
		c.Tracer = tracer
		return p.prepareDial(ctx, c, before, &DialAttempt{pool: p})
	}
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		ctx, cancel := p.untilEnd(ctx)
		defer cancel()
		if err := p.accept(ctx, c, after); err != nil {
			return err
		}
		p.countOpen(c)
		return nil
	}
	config.BeforeClose = func(c *pgx.Conn) {
		p.uncountOpen(c)
		p.clearNeedPing(c)
		if closing != nil {
			closing(c)
		}
	}
}

// untilEnd returns a context for making a connection. It also ends with the pool.
func (p *Pool) untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.dialContext, cancel)
	return ctx, func() { stop(); cancel() }
}

// prepareDial prepares a configuration for one attempt to connect: it calls the user's hook first, then makes the
// connection use a Socket. It returns when the attempt has a slot of the dial gate.
func (p *Pool) prepareDial(ctx context.Context, c *pgx.ConnConfig, before func(context.Context, *pgx.ConnConfig) error, attempt *DialAttempt) error {
	if before != nil {
		if err := before(ctx, c); err != nil {
			return err
		}
	}
	c.Tracer = withTracer(c.Tracer, attempt)
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return p.dial(ctx, attempt, dial, network, addr)
	}
	frontend := c.BuildFrontend
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		s := socketBelow(w)
		if s == nil && !attempt.finished.Load() {
			s = attempt.socket
		}
		if s != nil {
			s.owned.Store(attempt.finished.Load())
			r, w = &messageReader{Reader: r, socket: s}, &messageWriter{Writer: w, socket: s}
		}
		return frontend(r, w)
	}
	return p.enterDial(ctx, attempt)
}

// accept runs the user's hook for a new connection. Its error says why the connection cannot be used.
func (p *Pool) accept(ctx context.Context, c *pgx.Conn, after func(context.Context, *pgx.Conn) error) error {
	if after != nil {
		if err := after(ctx, c); err != nil && c.IsClosed() {
			return &pgerr.ConnectError{Err: err} // the connection has ended, so the hook is most likely not at fault
		} else if err != nil {
			return err
		}
	}
	if p.LostLately() && p.traffic.behindPooler.Load() {
		if err := p.ping(ctx, c.Ping); err != nil { // a pooler accepts clients even if its server is gone
			return &pgerr.ConnectError{Err: err}
		}
	}
	if reason := p.fenced.Load(); reason != nil {
		return &FencedError{*reason} // the pool has been emptied meanwhile
	}
	return nil
}

// countOpen and uncountOpen count the connections that the pool has. A connection that is about to be destroyed no longer
// counts. A hijacked connection counts until Recount finds it.
func (p *Pool) countOpen(c *pgx.Conn) {
	if s := socketOf(c); s != nil && !s.counted.Swap(true) {
		p.open.Add(1)
	}
}

func (p *Pool) uncountOpen(c *pgx.Conn) {
	if s := socketOf(c); s != nil {
		if s.counted.Swap(false) {
			p.open.Add(-1)
		}
		if !p.traffic.reachable.Load() {
			s.cut(net.ErrClosed) // see PgxOnlySockets
		}
	}
}

// errNotAwaited refuses the dial that pgxpool would make inside TryBorrow when a connection is past its lifetime or was
// just closed because it had been idle. Only the caller's context would end that dial.
var errNotAwaited = errors.New("not dialled for an acquire that does not wait")

// awaited reports whether a dial may take time. It may if an acquire waits for it, or if pgxpool makes it for MinConns.
// An acquire that waits has a WaitContext, which is a value of the dial's context: puddle passes only the values of an
// acquire's context to the dial, not its deadline. A dial for MinConns has a context with a deadline.
func awaited(ctx context.Context) bool {
	_, forMinConns := ctx.Deadline()
	return forMinConns || ctx.Value(waitKey{}) != nil
}

// TryBorrow gets a connection without waiting, or none. Nearly every acquire takes this path: while no more connections
// are asked for than are open, one is idle, so no timer and no derived context is needed. spent is the duration of a
// ping, which counts against the caller's time limit. The rest takes no time and is not measured.
func (p *Pool) TryBorrow(ctx context.Context) (conn *pgxpool.Conn, spent time.Duration) {
	if !p.hookFree {
		return nil, 0
	}
	if p.demand.Add(1) > p.open.Load() {
		p.demand.Add(-1)
		return nil, 0
	}
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		p.demand.Add(-1)
		return nil, 0
	}
	if p.needPingCount.Load() == 0 {
		return conn, 0
	}
	began := time.Now()
	if p.validate(ctx, conn) != nil {
		conn.Release()
		conn = nil
	}
	return conn, time.Since(began)
}

// Borrow gets a connection and may wait for it until w ends. The caller has already counted it as lent.
func (p *Pool) Borrow(w *WaitContext) (*pgxpool.Conn, error) {
	conn, err := p.pool.Acquire(w)
	if err != nil {
		p.demand.Add(-1)
		return nil, cmp.Or(w.GenerationEnd(), err)
	}
	w.stopLooking()
	if err := p.validate(w, conn); err != nil {
		conn.Release()
		return nil, cmp.Or(w.GenerationEnd(), err)
	}
	return conn, nil
}

// Reset gives up every present connection: idle ones at once, connections in use when they are released.
func (p *Pool) Reset() {
	p.resets.Add(1)
	p.pool.Reset()
}

// Close closes the pool, and waits until every connection has been released and no guest is left.
func (p *Pool) Close() {
	p.pool.Close()
	p.guests.Wait()
}

// Stat returns the numbers of the pgxpool.Pool.
func (p *Pool) Stat() *pgxpool.Stat { return p.pool.Stat() }

// MinConns returns how many connections the pool is meant to have at least.
func (p *Pool) MinConns() int { return p.minConns }

// Dials returns how many slots the dial gate has, how many of them are free, and how many slots it shall have. Each dial
// that is under way has a slot.
func (p *Pool) Dials() (slots, free, limit int) {
	p.dials.mu.Lock()
	defer p.dials.mu.Unlock()
	return p.dials.slots, len(p.dials.free), p.dials.limit
}

// NeedPingCount returns how many connections are to be pinged before they are lent.
func (p *Pool) NeedPingCount() int { return int(p.needPingCount.Load()) }

// ResetDials forgets what the dial gate has learnt about the node, because the node has changed.
func (p *Pool) ResetDials() { p.dials.reset() }

// Fence makes dials fail with reason and lends no idle connection any more. It returns the sockets to cut.
func (p *Pool) Fence(reason error) []*Socket {
	p.fenced.Store(&reason)
	p.Reset()
	return p.Sockets()
}

// Sockets returns the sockets that are open now.
func (p *Pool) Sockets() []*Socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.sockets))
}

// PgxOnlySockets returns the sockets that only pgx still uses: it drains them, or has asked the server to cancel their
// statements. If the node hangs, that lasts up to 15 s. Meanwhile these connections take places in the pool.
func (p *Pool) PgxOnlySockets() []*Socket {
	return slices.DeleteFunc(p.Sockets(), func(s *Socket) bool { return s.counted.Load() || s.owned.Load() || s.guest.Load() })
}

// Cut ends sockets. The users of their connections get reason as the error. It returns how many were open.
func Cut(sockets []*Socket, reason error) (open int) {
	for _, s := range sockets {
		if s.cut(reason) {
			open++
		}
	}
	return open
}

// Unfence lets the node be dialled again.
func (p *Pool) Unfence() {
	p.fenced.Store(nil)
}
