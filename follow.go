package hasql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
)

// Pool makes a pgxpool.Pool that follows the route, for libraries that require a pgxpool.Pool (River does). Each of its
// connections leads to the node that the route picked when the connection was dialled. If that node no longer fits,
// because it was demoted, is behind or is down, the pool discards the connection instead of lending it again. These
// connections are not those of the nodes' pools: the limit of this pool is MaxConns of the first node's
// [NodeConfig.Pool], whichever nodes it leads to. Pickers count them as in use, and they are cut when their node is down,
// stale or foreign.
//
// Use a Route instead wherever code accepts one. The pool does not run a statement again that a stopping server has
// undone. Its acquire fails if the node turns out to be dead during the dial. And it waits for a free connection as long
// as its context allows, as every pgxpool does. AcquireTimeout limits only the wait for a node; during that wait the
// connection to be dialled takes one of the pool's places.
//
// Every call makes another pool, which the caller owns and may close. Otherwise [PoolManager.Close] closes it. Both wait
// for the connections in use. Only the values of ctx are used, not its end. The error is [ErrClosed].
func (r *Route) Pool(ctx context.Context) (*pgxpool.Pool, error) {
	pool, err := pgxpool.NewWithConfig(ctx, r.PoolConfig())
	if err != nil {
		return nil, fmt.Errorf("hasql: %w", err)
	}
	if !r.cluster.followers.add(pool) {
		pool.Close()
		return nil, ErrClosed
	}
	return pool, nil
}

// PoolConfig returns the configuration of [Route.Pool], for pools with other limits. It may be edited and passed to
// pgxpool.NewWithConfig. The caller must close that pool before the [PoolManager].
//
// The hooks of the configuration make the pool follow the route, so hooks that replace them must call them. BeforeConnect
// waits for a node and replaces the configuration of the connection by that node's [NodeConfig.Pool], whose own
// BeforeConnect and AfterConnect run. So an edit of ConnConfig has no effect. PrepareConn refuses connections whose node
// no longer fits, and pings those that were idle for long or may have been lost. So ShouldPing has no effect. PrepareConn
// and the other hooks of the first node run too.
func (r *Route) PoolConfig() *pgxpool.Config {
	config := r.config.Nodes[0].Pool.Copy()
	prepare, closing := prepareConn(config), config.BeforeClose
	config.BeforeConnect = r.beforeConnect
	config.AfterConnect = r.welcome
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	config.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		if !r.keeps(ctx, conn) {
			return false, nil
		}
		return prepare(ctx, conn)
	}
	config.BeforeClose = func(conn *pgx.Conn) {
		nodepool.UncountGuest(conn)
		if closing != nil {
			closing(conn)
		}
	}
	return config
}

// prepareConn returns the user's hook, or a hook that always agrees if there is none.
func prepareConn(config *pgxpool.Config) func(context.Context, *pgx.Conn) (bool, error) {
	//lint:ignore SA1019 users may still set the deprecated BeforeAcquire
	prepare, before := config.PrepareConn, config.BeforeAcquire
	switch {
	case prepare != nil:
		return prepare
	case before != nil:
		return func(ctx context.Context, conn *pgx.Conn) (bool, error) { return before(ctx, conn), nil }
	}
	return func(context.Context, *pgx.Conn) (bool, error) { return true, nil }
}

// beforeConnect makes a configuration lead to a node that fits. pgxpool does not repeat a dial that fails. So if a
// connection to the node was lost a moment ago, beforeConnect first asks the monitor whether the node is still there.
func (r *Route) beforeConnect(ctx context.Context, config *pgx.ConnConfig) error {
	return r.visit(ctx, func(ctx context.Context, n *node, a *nodepool.DialAttempt) error {
		if err := r.confirm(ctx, n); err != nil {
			return err
		}
		*config = *n.pool.Template().ConnConfig
		return n.pool.PrepareDial(ctx, config, a)
	})
}

// confirm asks the monitor of a node for a probe if a connection to the node was lost a moment ago, and waits until that
// probe has finished. If the probe shows that the node has changed, ctx has ended by then, or ends soon.
func (r *Route) confirm(ctx context.Context, n *node) error {
	if !n.pool.LostLately() {
		return nil
	}
	begun := n.checks.begun.Load()
	n.checks.checkNow()
	return r.cluster.await(ctx, "probe of "+n.config.Name, func(s *Snapshot) bool {
		state := s.state(n)
		return state == nil || state.probe > begun
	})
}
