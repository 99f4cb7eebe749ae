package hasql

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
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
)

// nodePool is the pool of one node: a pgxpool.Pool that can be shut off from its node and back on.
type nodePool struct {
	name    string
	pool    *pgxpool.Pool
	load    *nodeLoad
	traffic traffic
	dials   *dialGate

	// service ends when the node stops being what it is now: whoever waits for a connection of it then looks elsewhere.
	service atomic.Pointer[service]
	// severed is set while the node is down, stale or foreign: dials fail with it at once.
	severed atomic.Pointer[NodeDownError]

	simple      bool          // no hook of the user's runs inside Acquire and Release
	pingTimeout time.Duration // of prove, 0 if none
	unproven    sync.Map      // *pgx.Conn that need a ping before they are lent
	doubts      atomic.Int64  // how many those are
	atLeast     int           // connections that the pool shall have open
	filling     atomic.Int32  // whether they are being opened
	lookout     lookout

	ended atomic.Int64 // sockets of which nothing can be read any more, and which are not closed yet

	mu      sync.Mutex
	sockets map[*socket]struct{} // every open one
	leak    leak
}

// service is a time during which a node stays what it is.
type service struct {
	mu    sync.Mutex
	over  error // why it has ended
	waits map[*bound]struct{}
}

func newService() *service { return &service{waits: make(map[*bound]struct{})} }

// end ends the service and every context that is bound to it.
func (s *service) end(cause error) {
	s.mu.Lock()
	waits := s.waits
	s.over, s.waits = cause, nil
	s.mu.Unlock()
	for b := range waits {
		b.end(cause)
	}
}

// bound is a context that ends with another one, or with a service and a retiredError as its cause. It stands for
// context.AfterFunc on a context that is the service, which takes more time and memory.
type bound struct {
	context.Context
	end     context.CancelCauseFunc
	service *service
	place   *place // of which this is the context, if it may look for a better one
}

func (b *bound) bind(ctx context.Context, s *service) {
	b.Context, b.end = context.WithCancelCause(ctx)
	b.service = s
	s.mu.Lock()
	over := s.over
	if over == nil {
		s.waits[b] = struct{}{}
	}
	s.mu.Unlock()
	if over != nil {
		b.end(over)
	}
}

type boundKey struct{}

// Value makes it known that a context is bound, also to those who get no more than its values.
func (b *bound) Value(key any) any {
	if key == (boundKey{}) {
		return b
	}
	return b.Context.Value(key)
}

func (b *bound) release() {
	b.service.mu.Lock()
	delete(b.service.waits, b)
	b.service.mu.Unlock()
	b.end(nil)
}

// newNodePool makes the pool of a node out of the user's configuration, which it changes: the user's hooks and tracer
// are called as if they were alone.
func newNodePool(ctx context.Context, node NodeConfig, hint, unheard, contradict func()) (n *nodePool, err error) {
	config := node.Pool
	//lint:ignore SA1019 users may still set the deprecated BeforeAcquire
	hooked := config.PrepareConn != nil || config.BeforeAcquire != nil || config.AfterRelease != nil
	n = &nodePool{
		name:    node.Name,
		load:    &nodeLoad{limit: int(config.MaxConns)},
		dials:   newDialGate(int(config.MaxConns), cmp.Or(config.ConnConfig.ConnectTimeout, defaultConnectTimeout)),
		sockets: make(map[*socket]struct{}),

		simple:      !hooked,
		pingTimeout: config.PingTimeout,
		atLeast:     int(max(config.MinConns, config.MinIdleConns)),
	}
	n.service.Store(newService())
	n.traffic.hint, n.traffic.unheard, n.traffic.contradict = hint, unheard, contradict
	n.traffic.listen(config.ConnConfig)
	config.ShouldPing = n.doubt(config.ShouldPing)
	n.hookConnects(config)
	config.ConnConfig.Tracer = withTracer(config.ConnConfig.Tracer, &releaseTracer{pool: n})

	defer func() {
		if r := recover(); r != nil { // pgxpool does so for a Config that ParseConfig has not made
			err = fmt.Errorf("%v", r)
		}
	}()
	n.pool, err = pgxpool.NewWithConfig(ctx, config)
	return n, err
}

// hookConnects puts ours around the user's hooks: every connection goes through the gate, has a socket of ours, and is
// counted for as long as the pool has it.
func (n *nodePool) hookConnects(config *pgxpool.Config) {
	before, after, closing, tracer := config.BeforeConnect, config.AfterConnect, config.BeforeClose, config.ConnConfig.Tracer
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if !awaited(ctx) {
			return errNotAwaited
		}
		if e := n.extraOf(ctx); e != nil {
			e.begin()
		}
		c.Tracer = tracer
		if before != nil {
			if err := before(ctx, c); err != nil {
				return err
			}
		}
		attempt := &dialTracer{pool: n}
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
				r, w = &answers{Reader: r, socket: s}, &questions{w, s}
			}
			return frontend(r, w)
		}
		return n.enterDial(ctx, attempt)
	}
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		if after != nil {
			if err := after(ctx, c); err != nil && c.IsClosed() {
				return &connectError{err: err} // most likely not the hook's mistake
			} else if err != nil {
				return err
			}
		}
		if _, lately := n.traffic.lastLoss(); lately && n.traffic.pooled.Load() {
			if err := n.ping(ctx, c.Ping); err != nil { // a pooler lets clients in though its server is gone
				return &connectError{err: err}
			}
		}
		if down := n.severed.Load(); down != nil {
			return down // the pool has been emptied meanwhile
		}
		n.pooled(c)
		return nil
	}
	config.BeforeClose = func(c *pgx.Conn) {
		n.unpooled(c)
		n.proven(c)
		if closing != nil {
			closing(c)
		}
	}
}

// pooled and unpooled count the connections that the pool has. One that is about to be destroyed no longer is one. A
// hijacked one is until recount finds out.
func (n *nodePool) pooled(c *pgx.Conn) {
	if s := socketOf(c); s != nil && !s.pooled.Swap(true) {
		n.load.open.Add(1)
	}
}

func (n *nodePool) unpooled(c *pgx.Conn) {
	if s := socketOf(c); s != nil {
		if s.pooled.Swap(false) {
			n.load.open.Add(-1)
		}
		if !n.traffic.usable() {
			s.cut(net.ErrClosed) // see givenUp
		}
	}
}

// errNotAwaited refuses the dial that pgxpool would make for tryBorrow, where a connection is past its lifetime or has
// just been closed for having been idle: nothing but the caller's context would end it.
var errNotAwaited = errors.New("not dialled for an acquire that does not wait")

// awaited reports whether a dial is made for somebody who waits for it under a bound context, or for pgxpool itself, which
// keeps MinConns under a context with a deadline. Of an acquire's context puddle hands on the values alone.
func awaited(ctx context.Context) bool {
	_, pools := ctx.Deadline()
	return pools || ctx.Value(boundKey{}) != nil
}

// tryBorrow gets a connection without waiting, or none. It is the path of nearly every acquire: as long as no more are
// asked for than are open, one is idle, so neither a timer nor a derived context is needed. What a ping took is spent of the
// caller's budget. The rest takes no time, and is not worth a look at the clock.
func (n *nodePool) tryBorrow(ctx context.Context) (conn *pgxpool.Conn, spent time.Duration) {
	if !n.simple {
		return nil, 0
	}
	if n.load.lent.Add(1) > n.load.open.Load() {
		n.load.lent.Add(-1)
		return nil, 0
	}
	conn, err := n.pool.Acquire(ctx)
	if err != nil {
		n.load.lent.Add(-1)
		return nil, 0
	}
	if n.doubts.Load() == 0 {
		return conn, 0
	}
	began := time.Now()
	if n.prove(ctx, conn) != nil {
		conn.Release()
		conn = nil
	}
	return conn, time.Since(began)
}

// borrow gets a connection, for which it may wait until the context of its place ends. The caller has counted it as lent.
func (n *nodePool) borrow(p *place) (*pgxpool.Conn, error) {
	conn, err := n.pool.Acquire(p)
	if err != nil {
		n.load.lent.Add(-1)
		return nil, cmp.Or(retired(p), err)
	}
	p.keep()
	if err := n.prove(p, conn); err != nil {
		conn.Release()
		return nil, cmp.Or(retired(p), err)
	}
	return conn, nil
}

// retired returns the retiredError of a bound context that ended because the service did, else nil.
func retired(ctx context.Context) error {
	if cause, ok := errors.AsType[*retiredError](context.Cause(ctx)); ok {
		return cause
	}
	return nil
}

// doubt makes pgxpool leave the ping of connections that were idle for long to us. Its own would go on, connection by
// connection, for as long as the caller's context allows, though the node may long be known to hang. Only where a hook of
// the user's has to find the connection alive (PrepareConn) the ping stays with pgxpool.
func (n *nodePool) doubt(should func(context.Context, pgxpool.ShouldPingParams) bool) func(context.Context, pgxpool.ShouldPingParams) bool {
	if should == nil {
		should = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > time.Second }
	}
	return func(ctx context.Context, p pgxpool.ShouldPingParams) bool {
		doubted := should(ctx, p) || n.traffic.shaken(p.IdleDuration)
		if !n.simple {
			if b, _ := ctx.Value(boundKey{}).(*bound); b != nil && b.place != nil {
				b.place.keep() // a hook that works on this connection is not to be cut short for another one
			}
			return doubted
		}
		if !doubted {
			return false
		}
		if _, already := n.unproven.LoadOrStore(p.Conn, nil); !already {
			n.doubts.Add(1)
		}
		return false
	}
}

func (n *nodePool) proven(c *pgx.Conn) {
	if _, doubted := n.unproven.LoadAndDelete(c); doubted {
		n.doubts.Add(-1)
	}
}

// prove pings a connection that needs it. If ctx ends before the ping is sent the connection is as good, or bad, as before,
// and is still to be pinged by whoever gets it next.
func (n *nodePool) prove(ctx context.Context, conn *pgxpool.Conn) error {
	if _, doubted := n.unproven.Load(conn.Conn()); !doubted {
		return nil
	}
	if err := n.ping(ctx, conn.Ping); err != nil {
		return &lostConnError{err}
	}
	n.proven(conn.Conn())
	return nil
}

// ping pings a connection until ctx, the service or PingTimeout ends.
func (n *nodePool) ping(ctx context.Context, send func(context.Context) error) error {
	var b bound
	b.bind(ctx, n.service.Load())
	defer b.release()
	ctx = &b
	if n.pingTimeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, n.pingTimeout)
		defer stop()
	}
	return send(ctx)
}

// retire ends the current service: the node is no longer what it was.
func (n *nodePool) retire() {
	n.service.Swap(newService()).end(&retiredError{n.name})
}

// end ends the last service. It has no successor, so that whoever gets hold of it late finds it ended too.
func (n *nodePool) end() {
	n.service.Load().end(&retiredError{n.name})
}

// sever shuts the node off: no more dials, and none of its idle connections is lent. It returns the sockets to cut.
func (n *nodePool) sever(reason *NodeDownError) []*socket {
	n.severed.Store(reason)
	n.pool.Reset()
	return n.open()
}

// open returns the sockets that are open now.
func (n *nodePool) open() []*socket {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.sockets))
}

// givenUp returns those of them that nobody uses any more, but for pgx, which is draining them or has asked the server to
// cancel what ran on them. A node that hangs would keep that up for 15 s, and with it places in the pool.
func (n *nodePool) givenUp() []*socket {
	return slices.DeleteFunc(n.open(), func(s *socket) bool { return s.pooled.Load() || s.owned.Load() })
}

func cut(sockets []*socket, reason error) {
	for _, s := range sockets {
		s.cut(reason)
	}
}

// restore lets the node be dialled again.
func (n *nodePool) restore() {
	n.severed.Store(nil)
}

// fill has the pool open connections until it has so many or is being given them. pgxpool would do so at its next health
// check only, and for MinConns only. Until it is through, reads go to other nodes if there are any.
func (n *nodePool) fill(goal int) {
	defer n.filling.Add(-1)
	ctx := new(bound)
	ctx.bind(context.Background(), n.service.Load())
	defer ctx.release()
	var dials sync.WaitGroup
	defer dials.Wait()
	for n.lacks(goal) && n.openExtra(ctx, goal, &dials) {
	}
}

// lacks reports whether the pool has fewer connections than that and may have more, those included that are being opened.
func (n *nodePool) lacks(goal int) bool {
	return int(n.pool.Stat().TotalConns()) < min(goal, n.load.limit)
}

// openExtra has the pool open a connection although others may be idle. It returns as soon as the dial has been let in, so
// that an acquire that has to dial waits behind one of ours at most; false if there is to be none.
func (n *nodePool) openExtra(ctx context.Context, goal int, dials *sync.WaitGroup) bool {
	e := &extra{dialled: make(chan struct{}), pool: n}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, extraKey{}, e))
	e.limit = time.AfterFunc(maxHold, cancel)
	over := make(chan bool, 1)
	dials.Go(func() {
		defer cancel()
		got := true
		for got && !e.begun.Load() && n.lacks(goal) {
			got = n.hold(ctx, e)
		}
		e.begin()
		over <- got
	})
	select {
	case <-e.dialled:
		return true
	case got := <-over:
		return got
	}
}

// hold acquires a connection for e: an idle one, and when there is none the one that is opened for it.
func (n *nodePool) hold(ctx context.Context, e *extra) bool {
	n.load.lent.Add(1)
	conn, err := n.pool.Acquire(ctx)
	if err != nil {
		n.load.lent.Add(-1)
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = append(e.held, conn)
	return true
}

// extra is a connection that is opened although others may be idle. pgxpool opens none then, so the idle ones are held until
// it has begun to, which takes no time. Should the pool be full in this moment they are held for maxHold at most.
type extra struct {
	limit   *time.Timer
	begun   atomic.Bool
	dialled chan struct{} // closed when its dial has been let in
	letIn   sync.Once     // closes it
	pool    *nodePool

	mu   sync.Mutex
	held []*pgxpool.Conn
}

const maxHold = 100 * time.Millisecond

type extraKey struct{}

// extraOf returns what a dial of this pool is made for, if it is an extra. A hook of the user's may use the context that it
// gets for another pool, or another PoolManager.
func (n *nodePool) extraOf(ctx context.Context) *extra {
	if e, ok := ctx.Value(extraKey{}).(*extra); ok && e.pool == n {
		return e
	}
	return nil
}

// begin lets go of what is held: the pool is opening the connection, or will not.
func (e *extra) begin() {
	e.limit.Stop()
	e.begun.Store(true)
	e.mu.Lock()
	held := e.held
	e.held = nil
	e.mu.Unlock()
	for _, conn := range held {
		conn.Release()
	}
}

// risen draws whether a node that has been back since then takes one more piece of work already.
func (n *nodePool) risen(since time.Time) bool {
	return n.filling.Load() == 0 && fraction() < float64(time.Since(since))/float64(riseTime)
}

// retiredError ends the wait for a connection to a node that is no longer what it was.
type retiredError struct{ node string }

func (e *retiredError) Error() string { return "node " + e.node + " is no longer what it was" }

// lostConnError is a pooled connection that turned out to be dead before it was lent. Another one may not be.
type lostConnError struct{ err error }

func (e *lostConnError) Error() string { return "pooled connection lost: " + e.err.Error() }
func (e *lostConnError) Unwrap() error { return e.err }

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// isDialError reports whether err is a failure to connect, after which another node may do, in contrast to an error of
// the user's hooks.
func isDialError(err error) bool {
	return is[*dialBackoffError](err) || is[*NodeDownError](err) || is[*connectError](err) || is[*pgconn.ConnectError](err)
}
