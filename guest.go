package hasql

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
)

// ConnectFunc lets connect make a connection to a node that fits, for the caller's own use: for LISTEN, for logical
// replication, or for a pool of another kind. The connection is in none of the nodes' pools, so MaxConns does not count
// it. It counts as in use, and is cut when its node is down, stale or foreign. It is not cut if its node merely gets
// another role. A caller that keeps it for long calls PrepareConn of [Route.PoolConfig] before each use, which says
// whether it still fits.
//
// ConnectFunc blocks until there is a node, for AcquireTimeout at most, or until ctx ends. It calls connect with the
// configuration of that node ([NodeConfig.Pool], after its BeforeConnect). If connecting fails it calls connect again,
// perhaps for another node. connect may change the configuration, must pass its context and the configuration to
// pgx.ConnectConfig or to something built on it, and returns the result. Then AfterConnect of [NodeConfig.Pool] runs; if
// that fails the connection is closed. The caller closes the connection. [PoolManager.Close] waits for that until its
// context ends. Errors are those of [Route.Acquire], and errors of connect that are not failures to connect.
func (r *Route) ConnectFunc(ctx context.Context, connect func(context.Context, *pgx.ConnConfig) (*pgx.Conn, error)) error {
	return r.visit(ctx, func(ctx context.Context, n *node, a *nodepool.DialAttempt) error {
		config := n.pool.Template().ConnConfig
		if err := n.pool.PrepareDial(ctx, config, a); err != nil {
			return err
		}
		defer a.ReturnSlot() // also when connect panics
		conn, err := connect(ctx, config)
		if err != nil {
			return err
		}
		if !a.Made(conn) {
			return errForeignConn
		}
		if err := r.welcome(ctx, conn); err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
			return err
		}
		return nil
	})
}

// visit lets a guest connect to a node that fits. connect either fails before the attempt begins, or begins the attempt.
func (r *Route) visit(ctx context.Context, connect func(context.Context, *node, *nodepool.DialAttempt) error) error {
	return r.seek(ctx, time.Now(), nil, nil, func(ctx context.Context, c *Candidate, _ *choice, _ map[*node]error) (*Candidate, error) {
		n := c.node
		generation := n.pool.Generation()
		if !r.fits(c) {
			return c, errChanged
		}
		var w nodepool.WaitContext
		w.Bind(ctx, generation)
		defer w.Release()
		a := n.pool.ReserveGuest()
		if a == nil {
			return c, errChanged // the node has left, or the PoolManager is closed
		}
		err := errPanicked // until connect returns
		defer func() {
			if err != nil {
				a.FinishGuest(err)
			}
		}()
		if err = connect(&w, n, a); err != nil {
			return c, cmp.Or(w.GenerationEnd(), err)
		}
		return c, nil
	})
}

// welcome runs the user's hook for a new guest. Its error says why the guest cannot be used.
func (r *Route) welcome(ctx context.Context, conn *pgx.Conn) error {
	pool := nodepool.Of(conn)
	if pool == nil {
		return errForeignConn // a hook of the user has replaced hasql's
	}
	if err := pool.Accept(ctx, conn); err != nil {
		return err
	}
	if r.candidateOf(pool, conn) == nil {
		return &pgerr.ConnectError{Err: errChanged}
	}
	return nil
}

// candidateOf returns the candidate that a guest's node is now. It returns nil if the node no longer fits or the connection
// must not be used any more.
func (r *Route) candidateOf(pool *nodepool.Pool, conn *pgx.Conn) *Candidate {
	if pool.IsUnusable(conn) {
		return nil
	}
	t := r.currentSelection()
	for _, cs := range [...][]Candidate{t.fit, t.masters} {
		for i := range cs {
			if cs[i].node.pool == pool {
				return &cs[i]
			}
		}
	}
	return nil
}

// keeps reports whether a guest may be used once more.
func (r *Route) keeps(ctx context.Context, conn *pgx.Conn) bool {
	if !nodepool.IsGuest(conn) || conn.IsClosed() {
		return false
	}
	pool := nodepool.Of(conn)
	c := r.candidateOf(pool, conn)
	// The guest is counted as in use before the last check. So an operator who counts what is in use sees the guest, or the
	// guest sees the operator's order.
	return c != nil && !r.moves(c) && pool.AllowUse(ctx, conn) && r.candidateOf(pool, conn) != nil
}

// epoch is a moment before all others.
var epoch = time.Now().Add(-time.Hour)

// moveInterval is how often one guest makes room for a guest on another node. Guests stay for long, so a replica that has
// come back would get none for hours. One move each second is cheap, even if the Picker chooses the same node again.
const moveInterval = time.Second

// moves reports whether a guest has to make room, because another node has fewer guests and the Picker prefers that node
// now.
func (r *Route) moves(at *Candidate) bool {
	t := r.currentSelection()
	fewer := func(c *Candidate) bool { return c.load.Guests()+1 < at.load.Guests() }
	if !slices.ContainsFunc(t.fit, func(c Candidate) bool { return fewer(&c) }) {
		return false
	}
	now, last := int64(time.Since(epoch)), r.cluster.lastGuestMove.Load()
	if last != 0 && now-last < int64(moveInterval) || !r.cluster.lastGuestMove.CompareAndSwap(last, now) {
		return false
	}
	c := r.pick(&t.choice)
	return c != nil && fewer(c)
}
