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

	// opening ends with the pool. With it ends every connection that is being made. pgxpool makes connections for
	// MinConns under a context of its own that lasts a minute, and its Close waits for them.
	opening context.Context
	stop    context.CancelFunc

	// generation ends when the node changes. Then an acquire that waits for a connection of the node looks for another
	// node.
	generation atomic.Pointer[Generation]
	// fenced is set while the node is down, stale or foreign. Dials fail with it at once.
	fenced atomic.Pointer[error]

	simple      bool          // whether no hook of the user runs inside Acquire and Release
	pingTimeout time.Duration // limit of a ping; 0 if there is none
	unvalidated sync.Map      // *pgx.Conn that need a ping before they are lent
	toValidate  atomic.Int64  // the number of connections in unvalidated
	atLeast     int           // how many connections the pool shall have open
	filling     atomic.Int32  // how many calls of Fill are opening connections

	template *pgxpool.Config // the user's configuration, with which guests connect
	resets   atomic.Uint64   // the number of calls of Reset
	guests   sync.WaitGroup

	endedSockets atomic.Int64 // the number of open sockets from which nothing can be read any more

	mu       sync.Mutex
	sockets  map[*Socket]struct{} // every open one
	hijacked hijackSamples
	closed   bool // whether no guest is let in any more
}

// DefaultConnectTimeout is what a configuration without a ConnectTimeout gets. A dial holds a place in the pool.
const DefaultConnectTimeout = 2 * time.Second

// New makes the pool of a node from a copy of config. The user's hooks and tracer keep working. watcher learns what the
// traffic suggests. Only the values of ctx are used.
func New(ctx context.Context, name string, config *pgxpool.Config, watcher Watcher) (n *Pool, err error) {
	config = config.Copy()
	//lint:ignore SA1019 users may still set the deprecated BeforeAcquire
	hooked := config.PrepareConn != nil || config.BeforeAcquire != nil || config.AfterRelease != nil
	n = &Pool{
		name:    name,
		Load:    NewLoad(int(config.MaxConns)),
		dials:   newDialGate(int(config.MaxConns), cmp.Or(config.ConnConfig.ConnectTimeout, DefaultConnectTimeout)),
		sockets: make(map[*Socket]struct{}),

		simple:      !hooked,
		pingTimeout: config.PingTimeout,
		atLeast:     int(max(config.MinConns, config.MinIdleConns)),
	}
	n.opening, n.stop = context.WithCancel(context.Background())
	n.generation.Store(newGeneration())
	n.traffic.watcher = watcher
	n.traffic.listen(config.ConnConfig)
	n.template = config.Copy()
	config.ShouldPing = n.deferValidation(config.ShouldPing)
	n.hookConnects(config)
	config.ConnConfig.Tracer = withTracer(config.ConnConfig.Tracer, &releaseTracer{pool: n})

	defer func() {
		if r := recover(); r != nil { // pgxpool panics for a Config that its ParseConfig has not made
			err = fmt.Errorf("%v", r)
		}
	}()
	n.pool, err = pgxpool.NewWithConfig(ctx, config)
	return n, err
}

// hookConnects wraps the user's hooks. Every connection goes through the dial gate, has a Socket, and is counted for as
// long as the pool has it.
func (n *Pool) hookConnects(config *pgxpool.Config) {
	before, after, closing, tracer := config.BeforeConnect, config.AfterConnect, config.BeforeClose, config.ConnConfig.Tracer
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if !awaited(ctx) {
			return errNotAwaited
		}
		if e := n.extraOf(ctx); e != nil {
			e.begin()
		}
		ctx, over := n.untilEnd(ctx)
		defer over()
		c.Tracer = tracer
		return n.equip(ctx, c, before, &Attempt{pool: n})
	}
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		ctx, over := n.untilEnd(ctx)
		defer over()
		if err := n.accept(ctx, c, after); err != nil {
			return err
		}
		n.countOpen(c)
		return nil
	}
	config.BeforeClose = func(c *pgx.Conn) {
		n.uncountOpen(c)
		n.validated(c)
		if closing != nil {
			closing(c)
		}
	}
}

// untilEnd returns a context for making a connection. It also ends with the pool.
func (n *Pool) untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.opening, cancel)
	return ctx, func() { stop(); cancel() }
}

// equip prepares a configuration for one attempt to connect: it calls the user's hook first, then makes the connection
// use a Socket. It returns when the attempt may begin.
func (n *Pool) equip(ctx context.Context, c *pgx.ConnConfig, before func(context.Context, *pgx.ConnConfig) error, attempt *Attempt) error {
	if before != nil {
		if err := before(ctx, c); err != nil {
			return err
		}
	}
	c.Tracer = withTracer(c.Tracer, attempt)
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.dial(ctx, attempt, dial, network, addr)
	}
	frontend := c.BuildFrontend
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		s := socketBelow(w)
		if s == nil && !attempt.over.Load() {
			s = attempt.socket
		}
		if s != nil {
			s.owned.Store(attempt.over.Load())
			r, w = &answers{Reader: r, socket: s}, &questions{Writer: w, socket: s}
		}
		return frontend(r, w)
	}
	return n.enterDial(ctx, attempt)
}

// accept runs the user's hook for a new connection. Its error says why the connection cannot be used.
func (n *Pool) accept(ctx context.Context, c *pgx.Conn, after func(context.Context, *pgx.Conn) error) error {
	if after != nil {
		if err := after(ctx, c); err != nil && c.IsClosed() {
			return &pgerr.ConnectError{Err: err} // the connection has ended, so the hook is most likely not at fault
		} else if err != nil {
			return err
		}
	}
	if n.LostLately() && n.traffic.behindPooler.Load() {
		if err := n.ping(ctx, c.Ping); err != nil { // a pooler accepts clients even if its server is gone
			return &pgerr.ConnectError{Err: err}
		}
	}
	if reason := n.fenced.Load(); reason != nil {
		return &FencedError{*reason} // the pool has been emptied meanwhile
	}
	return nil
}

// countOpen and uncountOpen count the connections that the pool has. A connection that is about to be destroyed no longer
// counts. A hijacked connection counts until Recount finds it.
func (n *Pool) countOpen(c *pgx.Conn) {
	if s := socketOf(c); s != nil && !s.counted.Swap(true) {
		n.open.Add(1)
	}
}

func (n *Pool) uncountOpen(c *pgx.Conn) {
	if s := socketOf(c); s != nil {
		if s.counted.Swap(false) {
			n.open.Add(-1)
		}
		if !n.traffic.reachable.Load() {
			s.cut(net.ErrClosed) // see Abandoned
		}
	}
}

// errNotAwaited refuses the dial that pgxpool would make inside TryBorrow when a connection is past its lifetime or was
// just closed because it had been idle. Only the caller's context would end that dial.
var errNotAwaited = errors.New("not dialled for an acquire that does not wait")

// awaited reports whether a dial may take time: an acquire waits for it under a Wait, or pgxpool makes it for MinConns,
// under a context with a deadline. Of the context of an acquire puddle passes on only the values.
func awaited(ctx context.Context) bool {
	_, pools := ctx.Deadline()
	return pools || ctx.Value(waitKey{}) != nil
}

// TryBorrow gets a connection without waiting, or none. Nearly every acquire takes this path: while no more connections
// are asked for than are open, one is idle, so no timer and no derived context is needed. spent is the duration of a
// ping, which counts against the caller's time limit. The rest takes no time and is not measured.
func (n *Pool) TryBorrow(ctx context.Context) (conn *pgxpool.Conn, spent time.Duration) {
	if !n.simple {
		return nil, 0
	}
	if n.demand.Add(1) > n.open.Load() {
		n.demand.Add(-1)
		return nil, 0
	}
	conn, err := n.pool.Acquire(ctx)
	if err != nil {
		n.demand.Add(-1)
		return nil, 0
	}
	if n.toValidate.Load() == 0 {
		return conn, 0
	}
	began := time.Now()
	if n.validate(ctx, conn) != nil {
		conn.Release()
		conn = nil
	}
	return conn, time.Since(began)
}

// Borrow gets a connection and may wait for it until w ends. The caller has already counted it as lent.
func (n *Pool) Borrow(w *Wait) (*pgxpool.Conn, error) {
	conn, err := n.pool.Acquire(w)
	if err != nil {
		n.demand.Add(-1)
		return nil, cmp.Or(w.GenerationEnd(), err)
	}
	w.keep()
	if err := n.validate(w, conn); err != nil {
		conn.Release()
		return nil, cmp.Or(w.GenerationEnd(), err)
	}
	return conn, nil
}

// Reset gives up every present connection: idle ones at once, connections in use when they are released.
func (n *Pool) Reset() {
	n.resets.Add(1)
	n.pool.Reset()
}

// Close closes the pool, and waits until every connection has been released and no guest is left.
func (n *Pool) Close() {
	n.pool.Close()
	n.guests.Wait()
}

// Stat returns the numbers of the pgxpool.Pool.
func (n *Pool) Stat() *pgxpool.Stat { return n.pool.Stat() }

// MinConns returns how many connections the pool is meant to have at least.
func (n *Pool) MinConns() int { return n.atLeast }

// Dials returns the number of dials that may be under way at once, how many of these places are free, and how many places
// there shall be.
func (n *Pool) Dials() (places, free, limit int) {
	n.dials.mu.Lock()
	defer n.dials.mu.Unlock()
	return n.dials.places, len(n.dials.free), n.dials.limit
}

// Unvalidated returns how many connections are to be pinged before they are lent.
func (n *Pool) Unvalidated() int { return int(n.toValidate.Load()) }

// NewStart forgets what is known about dials, because the node has changed.
func (n *Pool) NewStart() { n.dials.begin() }

// Fence makes dials fail with reason and lends no idle connection any more. It returns the sockets to cut.
func (n *Pool) Fence(reason error) []*Socket {
	n.fenced.Store(&reason)
	n.Reset()
	return n.Sockets()
}

// Sockets returns the sockets that are open now.
func (n *Pool) Sockets() []*Socket {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.sockets))
}

// Abandoned returns the sockets that only pgx still uses: it drains them, or has asked the server to cancel their
// statements. If the node hangs, that lasts up to 15 s and holds places in the pool.
func (n *Pool) Abandoned() []*Socket {
	return slices.DeleteFunc(n.Sockets(), func(s *Socket) bool { return s.counted.Load() || s.owned.Load() || s.guest.Load() })
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
func (n *Pool) Unfence() {
	n.fenced.Store(nil)
}
