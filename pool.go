package hasql

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// nodeLoad counts what a node has to do. It is all that an acquire writes to, besides the pool itself.
type nodeLoad struct {
	lent     atomic.Int64  // connections lent and asked for
	open     atomic.Int64  // established connections of the pool; a hijacked one counts on in both
	limit    int           // MaxConns of the pool
	turn     atomic.Uint64 // of RoundRobin: the last one
	acquires [targets]atomic.Int64
}

func (l *nodeLoad) inUse() int { return int(l.lent.Load()) }
func (l *nodeLoad) free() int  { return l.limit - int(l.lent.Load()) }

// lessThan compares how full two pools are.
func (l *nodeLoad) lessThan(o *nodeLoad) bool {
	return l.inUse()*o.limit < o.inUse()*l.limit
}

// nodePool is the pool of one node: a pgxpool.Pool that can be shut off from its node and back on.
type nodePool struct {
	name string
	pool *pgxpool.Pool
	load *nodeLoad

	// service ends, with the reason as its cause, when the node stops being what it is now: whoever waits for a
	// connection of it then looks elsewhere.
	service atomic.Pointer[service]
	// severed is set while the node is down, stale or foreign: dials fail with it at once.
	severed atomic.Pointer[NodeDownError]
	dials   chan struct{} // one place for each dial in flight

	traffic     traffic
	atLeast     int          // connections that the pool shall have open
	filling     atomic.Int32 // whether they are being opened
	pingTimeout time.Duration
	unproven    sync.Map     // *pgx.Conn that were idle for so long that they need a ping before they are lent
	doubts      atomic.Int64 // how many those are

	mu      sync.Mutex
	sockets map[*socket]struct{} // every open one
	backoff time.Duration        // between dials, 0 unless the last one failed
	retryAt time.Time
	refusal error // of the last dial
}

type service struct {
	context.Context
	end context.CancelCauseFunc
}

func newService() *service {
	ctx, end := context.WithCancelCause(context.Background())
	return &service{ctx, end}
}

// newNodePool makes the pool of a node out of the user's configuration, which it changes: the user's hooks and tracer
// are called as if they were alone.
func newNodePool(ctx context.Context, node NodeConfig, hint func()) (*nodePool, error) {
	config := node.Pool
	n := &nodePool{
		name:    node.Name,
		load:    &nodeLoad{limit: int(config.MaxConns)},
		dials:   make(chan struct{}, maxDials),
		sockets: make(map[*socket]struct{}),

		pingTimeout: config.PingTimeout,
		atLeast:     int(min(max(config.MinConns, config.MinIdleConns), config.MaxConns)),
	}
	n.service.Store(newService())
	n.traffic.hint = hint
	n.traffic.listen(config.ConnConfig)

	config.ConnConfig.Tracer = withTracer(config.ConnConfig.Tracer, &poolTracer{n})
	tracer := config.ConnConfig.Tracer
	before, after, closing := config.BeforeConnect, config.AfterConnect, config.BeforeClose
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if before != nil {
			if err := before(ctx, c); err != nil {
				return err
			}
			if c.Tracer != tracer { // the user's own for this connection
				c.Tracer = withTracer(c.Tracer, &poolTracer{n})
			}
		}
		dial := c.DialFunc
		c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return n.dial(ctx, dial, network, addr)
		}
		return n.enterDial(ctx)
	}
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		if after != nil {
			if err := after(ctx, c); err != nil {
				return err
			}
		}
		n.load.open.Add(1)
		return nil
	}
	config.BeforeClose = func(c *pgx.Conn) {
		n.load.open.Add(-1)
		n.proven(c)
		if closing != nil {
			closing(c)
		}
	}
	config.ShouldPing = n.doubt(config.ShouldPing)

	var err error
	n.pool, err = pgxpool.NewWithConfig(ctx, config)
	return n, err
}

// tryBorrow gets a connection without waiting, or none. It is the path of nearly every acquire: as long as no more are
// asked for than the pool has open, one is idle, so neither a timer nor a derived context is needed.
func (n *nodePool) tryBorrow(ctx context.Context, target Target) *pgxpool.Conn {
	if n.load.lent.Add(1) > n.load.open.Load() {
		n.load.lent.Add(-1)
		return nil
	}
	conn, err := n.pool.Acquire(ctx)
	if err != nil {
		n.load.lent.Add(-1)
		return nil
	}
	if n.doubts.Load() > 0 && n.prove(ctx, conn) != nil {
		conn.Release()
		return nil
	}
	n.load.acquires[target].Add(1)
	return conn
}

// borrow gets a connection, for which it may wait until ctx or the node's service ends.
func (n *nodePool) borrow(ctx context.Context, target Target) (*pgxpool.Conn, error) {
	ctx, cancel := n.inService(ctx)
	defer cancel()
	n.load.lent.Add(1)
	conn, err := n.pool.Acquire(ctx)
	if err != nil {
		n.load.lent.Add(-1)
		return nil, cmp.Or(ended(ctx), err)
	}
	if err := n.prove(ctx, conn); err != nil {
		conn.Release()
		return nil, cmp.Or(ended(ctx), err)
	}
	n.load.acquires[target].Add(1)
	return conn, nil
}

// inService returns a context that ends with ctx, or with the node's service and the reason for that as its cause.
func (n *nodePool) inService(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	service := n.service.Load()
	stop := context.AfterFunc(service, func() { cancel(context.Cause(service)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// ended returns the retiredError of a context of inService that ended because the service did, else nil.
func ended(ctx context.Context) error {
	if cause, ok := errors.AsType[*retiredError](context.Cause(ctx)); ok {
		return cause
	}
	return nil
}

// doubt makes pgxpool leave the ping of connections that were idle for long to us. Its own would go on, connection by
// connection, for as long as the caller's context allows, though the node may long be known to hang.
func (n *nodePool) doubt(should func(context.Context, pgxpool.ShouldPingParams) bool) func(context.Context, pgxpool.ShouldPingParams) bool {
	if should == nil {
		should = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > time.Second }
	}
	return func(ctx context.Context, p pgxpool.ShouldPingParams) bool {
		if should(ctx, p) || n.traffic.shaken(p.IdleDuration) {
			if _, already := n.unproven.LoadOrStore(p.Conn, nil); !already {
				n.doubts.Add(1)
			}
		}
		return false
	}
}

func (n *nodePool) proven(c *pgx.Conn) (doubted bool) {
	if _, doubted = n.unproven.LoadAndDelete(c); doubted {
		n.doubts.Add(-1)
	}
	return doubted
}

// prove pings a connection that needs it.
func (n *nodePool) prove(ctx context.Context, conn *pgxpool.Conn) error {
	if !n.proven(conn.Conn()) {
		return nil
	}
	ctx, cancel := n.inService(ctx)
	defer cancel()
	if n.pingTimeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, n.pingTimeout)
		defer stop()
	}
	if err := conn.Ping(ctx); err != nil {
		return &lostConnError{err}
	}
	return nil
}

// retire ends the current service: the node is no longer what it was.
func (n *nodePool) retire() {
	n.service.Swap(newService()).end(&retiredError{n.name})
}

// sever cuts the node off: no more dials, no pooled connections, and an end to those in use.
func (n *nodePool) sever(reason *NodeDownError) {
	n.severed.Store(reason)
	n.pool.Reset()
	n.cut(reason)
}

// cut ends every open socket. Their owners' operations fail with reason.
func (n *nodePool) cut(reason error) {
	n.mu.Lock()
	open := make([]*socket, 0, len(n.sockets))
	for s := range n.sockets {
		open = append(open, s)
	}
	n.mu.Unlock()
	for _, s := range open {
		s.cut(reason)
	}
}

// restore lets the node be dialled again, at once.
func (n *nodePool) restore() {
	n.mu.Lock()
	n.backoff, n.retryAt, n.refusal = 0, time.Time{}, nil
	n.mu.Unlock()
	n.severed.Store(nil)
}

// fill opens the connections that the pool shall have at least, which pgxpool would do at its next health check only.
// Until it is through, or the node's service ends, reads go to other nodes if there are any.
func (n *nodePool) fill() {
	defer n.filling.Add(-1)
	ctx, cancel := n.inService(context.Background())
	defer cancel()
	var all sync.WaitGroup
	conns := make(chan *pgxpool.Conn, n.load.limit)
	for range n.atLeast - int(n.load.open.Load()) {
		all.Go(func() {
			n.load.lent.Add(1)
			conn, err := n.pool.Acquire(ctx)
			if err != nil {
				n.load.lent.Add(-1)
				return
			}
			conns <- conn
		})
	}
	all.Wait()
	close(conns)
	for conn := range conns {
		conn.Release()
	}
}

// risen draws whether a node that has been back since then takes one more piece of work already.
func (n *nodePool) risen(since time.Time) bool {
	return n.filling.Load() == 0 && rand.Float64() < float64(time.Since(since))/float64(riseTime)
}

// retiredError ends the wait for a connection to a node that is no longer what it was.
type retiredError struct{ node string }

func (e *retiredError) Error() string { return "node " + e.node + " is no longer what it was" }

func isRetired(err error) bool {
	_, ok := errors.AsType[*retiredError](err)
	return ok
}

// lostConnError is a pooled connection that did not answer a ping. Another one may.
type lostConnError struct{ err error }

func (e *lostConnError) Error() string { return "pooled connection lost: " + e.err.Error() }
func (e *lostConnError) Unwrap() error { return e.err }

func isLost(err error) bool {
	_, ok := errors.AsType[*lostConnError](err)
	return ok
}

// isDialError reports whether err is a failure to connect, after which another node may do, in contrast to an error of
// the user's hooks.
func isDialError(err error) bool {
	if _, ok := errors.AsType[*dialBackoffError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*NodeDownError](err); ok {
		return true
	}
	_, ok := errors.AsType[*pgconn.ConnectError](err)
	return ok
}
