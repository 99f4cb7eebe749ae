package hasql

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxDials       = 2 // at once, for each node: a server that comes back is not to be run over
	minDialBackoff = 5 * time.Millisecond
	maxDialBackoff = time.Second
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
	}
	n.service.Store(newService())

	before, after, closing := config.BeforeConnect, config.AfterConnect, config.BeforeClose
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if before != nil {
			if err := before(ctx, c); err != nil {
				return err
			}
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
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.dial(ctx, dial, network, addr)
	}
	ours := &poolTracer{n, hint}
	config.ConnConfig.Tracer = withTracer(config.ConnConfig.Tracer, ours)

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
		if should(ctx, p) {
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
	<-n.dials
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

// socket is a connection to a node that fails with a reason of ours once it is cut.
type socket struct {
	net.Conn
	pool   *nodePool
	reason atomic.Pointer[error]
	told   atomic.Bool // whether a Read has returned the reason
}

func (s *socket) cut(reason error) {
	if s.reason.CompareAndSwap(nil, &reason) {
		_ = s.Conn.Close()
	}
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil && s.reason.Load() != nil {
		if s.told.Swap(true) {
			return n, *s.reason.Load()
		}
		return n, &cutError{*s.reason.Load()}
	}
	return n, err
}

func (s *socket) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	if err != nil && s.reason.Load() != nil {
		return n, *s.reason.Load()
	}
	return n, err
}

// cutError is the first thing that a reader of a cut socket learns. pgx peeks at the beginning of an answer, drops the
// error of that, and then knows no more than "conn closed" (which it takes for safe to retry, though the statement was
// sent). Only after a timeout does it ask again, and so gets to see the reason.
type cutError struct{ reason error }

func (e *cutError) Error() string { return e.reason.Error() }
func (e *cutError) Unwrap() error { return e.reason }
func (*cutError) Timeout() bool   { return true }
func (*cutError) Temporary() bool { return true } // so that crypto/tls does not keep it for ever

func (s *socket) Close() error {
	s.pool.mu.Lock()
	delete(s.pool.sockets, s)
	s.pool.mu.Unlock()
	return s.Conn.Close()
}

// dialBackoffError is why a node that has just refused a connection is not asked for another one yet.
type dialBackoffError struct {
	node string
	err  error
}

func (e *dialBackoffError) Error() string {
	return "not dialled again yet: " + e.err.Error()
}
func (e *dialBackoffError) Unwrap() error { return e.err }

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

// poolTracer sees the ends of connection attempts and the release of connections. pgx wants a QueryTracer, so it is one
// that does nothing.
type poolTracer struct {
	pool *nodePool
	hint func()
}

func withTracer(user pgx.QueryTracer, ours *poolTracer) pgx.QueryTracer {
	if user == nil {
		return ours
	}
	return multitracer.New(user, ours)
}

func (*poolTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (*poolTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (*poolTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

func (t *poolTracer) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	t.pool.leaveDial(data.Err)
	if data.Err != nil {
		t.hint() // the monitor finds out whether it is the node
	}
}

// TraceRelease takes a connection off the load. pgxpool calls it first thing in Release.
func (t *poolTracer) TraceRelease(*pgxpool.Pool, pgxpool.TraceReleaseData) {
	t.pool.load.lent.Add(-1)
}
