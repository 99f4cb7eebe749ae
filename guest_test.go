package hasql

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgfake"
)

// connectTo makes a connection of the test's own.
func connectTo(t *testing.T, r *Route) (conn *pgx.Conn, err error) {
	t.Helper()
	err = r.ConnectFunc(t.Context(), func(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
		conn, err = pgx.ConnectConfig(ctx, config)
		return conn, err
	})
	return conn, err
}

// following makes a pool that follows a route, which the end of the test closes.
func following(t *testing.T, r *Route) *pgxpool.Pool {
	t.Helper()
	pool, err := r.Pool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// inUse returns how many connections of a node are in use.
func inUseOf(pm *PoolManager, name string) int {
	for n := range pm.Snapshot().Nodes() {
		if n.Name == name+":5432" {
			return n.InUse()
		}
	}
	panic("no such node: " + name)
}

// spread acquires every connection that a pool may have, and returns how many led to each node.
func spread(t *testing.T, pool *pgxpool.Pool) map[string]int {
	t.Helper()
	nodes := make(map[string]int)
	for range pool.Config().MaxConns {
		conn := acquire(t, pool.Acquire)
		defer conn.Release()
		nodes[nodeOf(t, conn)]++
	}
	return nodes
}

// awaitMaster waits until a node is the master.
func awaitMaster(t *testing.T, pm *PoolManager, name string) {
	t.Helper()
	err := pm.WaitFor(t.Context(), func(s *Snapshot) bool {
		for n := range s.Nodes() {
			if n.Role == RoleMaster {
				return n.Name == name+":5432"
			}
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPoolFollowsTheMaster(t *testing.T) {
	for _, fault := range []func(*pgfake.Node){(*pgfake.Node).Kill, (*pgfake.Node).Freeze, (*pgfake.Node).Stop} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			pool := following(t, pm.Master())
			if got := spread(t, pool); got["pg1"] != 4 {
				t.Fatalf("connections: %v", got)
			}
			fault(c.Node("pg1"))
			time.Sleep(2 * time.Second)
			at(200*time.Millisecond, c.Node("pg2").Promote)
			conn := acquire(t, pool.Acquire)
			if got := nodeOf(t, conn); got != "pg2" {
				t.Errorf("served by %s", got)
			}
			conn.Release()
			if got := spread(t, pool); got["pg2"] != 4 {
				t.Errorf("connections: %v", got)
			}
			c.Node("pg1").Thaw()
		})
	}
}

// The connections to a replica outlive its promotion, and still are not lent for reading.
func TestPoolOfReplicasLeavesTheOneThatIsPromoted(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		pool := following(t, pm.Replica())
		if got := spread(t, pool); got["pg2"] != 2 || got["pg3"] != 2 {
			t.Errorf("connections: %v", got)
		}
		c.Node("pg1").Kill()
		c.Node("pg2").Promote()
		awaitMaster(t, pm, "pg2")
		if got := spread(t, pool); got["pg3"] != 4 {
			t.Errorf("connections: %v", got)
		}

		c.Node("pg1").Start()
		c.Node("pg1").Follow()
		ready(t, pm)
		for range 10 { // one connection makes room each second
			spread(t, pool)
			time.Sleep(time.Second)
		}
		if got := spread(t, pool); got["pg3"] != 2 || got["pg1"] != 2 {
			t.Errorf("connections: %v", got)
		}
	})
}

// A server that was restarted between two probes has kept its role, and none of its connections.
func TestPoolLendsNoConnectionOfAServerThatWasRestarted(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		pool := following(t, pm.Master())
		spread(t, pool)
		c.Node("pg1").Kill()
		c.Node("pg1").Start()
		ready(t, pm)
		for range 4 {
			conn := acquire(t, pool.Acquire)
			if got := nodeOf(t, conn); got != "pg1" {
				t.Errorf("served by %s", got)
			}
			defer conn.Release()
		}
	})
}

func TestPoolWaitsForAMasterAsLongAsAcquireTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		pool := following(t, pm.Master())
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		var err error
		took := timed(func() { _, err = pool.Acquire(t.Context()) })
		if _, ok := errors.AsType[*NoNodeError](err); !ok || took != pm.config.AcquireTimeout {
			t.Errorf("after %v: %v", took, err)
		}
		if n := inUseOf(pm, "pg1"); n != 0 {
			t.Errorf("%d connections in use", n)
		}
		at(3*time.Second, c.Node("pg3").Promote)
		took = timed(func() { acquire(t, pool.Acquire).Release() })
		if took > 3*time.Second+requestInterval {
			t.Errorf("served after %v", took)
		}
	})
}

func TestFollowingConnectionsCountAsLoad(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		own, err := connectTo(t, pm.Master())
		if err != nil {
			t.Fatal(err)
		}
		pool := following(t, pm.Master())
		conn := acquire(t, pool.Acquire)
		if n := inUseOf(pm, "pg1"); n != 2 {
			t.Errorf("%d connections in use", n)
		}
		if s := pm.Stat().Nodes()[0]; s.Guests != 2 || s.Pool.AcquiredConns() != 0 {
			t.Errorf("%d guests, %d of the pool", s.Guests, s.Pool.AcquiredConns())
		}
		conn.Release()
		pool.Close()
		if err := own.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if n := inUseOf(pm, "pg1"); n != 0 {
			t.Errorf("%d connections in use", n)
		}
	})
}

// A pool that follows holds a node's connections, so whoever chooses by load takes the other one.
func TestReadsAvoidTheReplicaThatOthersWorkOn(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		own, err := connectTo(t, pm.Replica())
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close(context.Background())
		var busy string
		if err := own.QueryRow(t.Context(), "read").Scan(&busy); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			conn := acquire(t, pm.AcquireReplica)
			if got := nodeOf(t, conn); got == busy {
				t.Errorf("a read went to %s", got)
			}
			conn.Release()
		}
	})
}

func TestFollowingConnectionsAreCutWithTheirNode(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		own, err := connectTo(t, pm.Master())
		if err != nil {
			t.Fatal(err)
		}
		pool := following(t, pm.Master())
		conn := acquire(t, pool.Acquire)
		c.Node("pg1").Freeze()
		for what, exec := range map[string]func() error{
			"own":    func() error { _, err := own.Exec(t.Context(), "write x"); return err },
			"pooled": func() error { _, err := conn.Exec(t.Context(), "write x"); return err },
		} {
			if down, ok := errors.AsType[*NodeDownError](exec()); !ok {
				t.Errorf("%s: %v", what, err)
			} else if down.Node != "pg1:5432" {
				t.Errorf("%s: %v", what, down)
			}
		}
		conn.Release()
		own.Close(t.Context())
		c.Node("pg1").Thaw()
	})
}

func TestConnectFuncConnectsAgainElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		tries := 0
		var conn *pgx.Conn
		err := pm.Master().ConnectFunc(t.Context(), func(ctx context.Context, config *pgx.ConnConfig) (_ *pgx.Conn, err error) {
			if tries++; tries == 1 {
				c.Node("pg1").Freeze()
				at(time.Second, c.Node("pg2").Promote)
			}
			conn, err = pgx.ConnectConfig(ctx, config)
			return conn, err
		})
		if err != nil {
			t.Fatal(err)
		}
		var node string
		if err := conn.QueryRow(t.Context(), "read").Scan(&node); err != nil || node != "pg2" || tries != 2 {
			t.Errorf("served by %q after %d tries: %v", node, tries, err)
		}
		conn.Close(t.Context())
		c.Node("pg1").Thaw()
	})
}

func TestConnectFuncThatDoesNotConnectLeavesNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		refused := errors.New("refused")
		for range 10 {
			err := pm.Master().ConnectFunc(t.Context(), func(context.Context, *pgx.ConnConfig) (*pgx.Conn, error) { return nil, refused })
			if err != refused {
				t.Fatal(err)
			}
		}
		another := acquire(t, pm.AcquireMaster)
		err := pm.Master().ConnectFunc(t.Context(), func(context.Context, *pgx.ConnConfig) (*pgx.Conn, error) { return another.Conn(), nil })
		if !errors.Is(err, errForeignConn) {
			t.Error(err)
		}
		another.Release()
		if n := inUseOf(pm, "pg1"); n != 0 {
			t.Errorf("%d connections in use", n)
		}
		conn, err := connectTo(t, pm.Master()) // the gate has its places back
		if err != nil {
			t.Fatal(err)
		}
		conn.Close(t.Context())
	})
}

func TestHooksOfTheUserRunForFollowingPools(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var begun, made, prepared, closed atomic.Int32 // the first is called for monitors too
		refused := errors.New("refused")
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { begun.Add(1); return nil }
			p.AfterConnect = func(context.Context, *pgx.Conn) error { made.Add(1); return nil }
			p.BeforeClose = func(*pgx.Conn) { closed.Add(1) }
			p.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { prepared.Add(1); return true, refused }
		}))
		ready(t, pm)
		monitors := begun.Load()
		pool := following(t, pm.Master())
		if _, err := pool.Acquire(t.Context()); err != refused {
			t.Error(err)
		}
		pool.Close()
		if got := [...]int32{begun.Load() - monitors, made.Load(), prepared.Load(), closed.Load()}; got != [...]int32{1, 1, 1, 1} {
			t.Errorf("BeforeConnect, AfterConnect, PrepareConn and BeforeClose were called %v times", got)
		}
	})
}

func TestCloseEndsFollowers(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		pool := following(t, pm.Master())
		conn := acquire(t, pool.Acquire)
		own, err := connectTo(t, pm.Master())
		if err != nil {
			t.Fatal(err)
		}
		at(time.Second, func() {
			if _, err := conn.Exec(t.Context(), "write x"); err != nil {
				t.Error(err)
			}
			conn.Release()
		})
		at(2*time.Second, func() { own.Close(context.Background()) })
		if took := timed(func() { err = pm.Close(t.Context()) }); err != nil || took != 2*time.Second {
			t.Errorf("Close took %v: %v", took, err)
		}
		if _, err := pool.Acquire(t.Context()); err == nil {
			t.Error("a closed pool lent a connection")
		}
		if _, err := pm.Master().Pool(t.Context()); err != ErrClosed {
			t.Error(err)
		}
		if _, err := connectTo(t, pm.Master()); err != ErrClosed {
			t.Error(err)
		}
	})
}

func TestCloseCutsFollowingConnectionsInTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		own, err := connectTo(t, pm.Master())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := pm.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		if _, err := own.Exec(t.Context(), "write x"); !errors.Is(err, ErrClosed) {
			t.Errorf("a cut connection: %v", err)
		}
		own.Close(t.Context())
	})
}

// Idle guests are in nobody's way when a node is taken out of service; those in a statement or a transaction are.
func TestOperatorsWaitForGuestsThatAreBusy(t *testing.T) {
	for what, act := range map[string]func(context.Context, *PoolManager) error{
		"Pause": func(ctx context.Context, pm *PoolManager) error { return pm.Pause(ctx) },
		"Drain": func(ctx context.Context, pm *PoolManager) error {
			return pm.Drain(ctx, "pg1:5432", BanOptions{Force: true})
		},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			pool := following(t, pm.Master())
			spread(t, pool)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			at(time.Second, func() {
				if err := tx.Commit(t.Context()); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
			if took := timed(func() { err = act(t.Context(), pm) }); err != nil || took < time.Second || took > time.Second+idlePoll {
				t.Errorf("%s took %v: %v", what, took, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := pool.Exec(ctx, "write x"); !errors.Is(err, context.DeadlineExceeded) || c.Commits("x") > 0 {
				t.Errorf("%s: a write meanwhile: %v", what, err)
			}
		})
	}
}

func TestNodeThatLeavesTakesItsGuestsAlong(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var nodes []NodeConfig
		pm := open(t, c, func(config *Config) { nodes = config.Copy().Nodes })
		ready(t, pm)
		pool := following(t, pm.Replica())
		spread(t, pool)
		if err := pm.SetNodes(t.Context(), []NodeConfig{nodes[0], nodes[2]}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if n := c.Node("pg2").Conns(); n != 0 {
			t.Errorf("%d connections left to the node that left", n)
		}
		if got := spread(t, pool); got["pg3"] != 4 {
			t.Errorf("connections: %v", got)
		}
	})
}

func TestPanicOfConnectLeavesNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		for range 10 {
			func() {
				defer func() { _ = recover() }()
				_ = pm.Master().ConnectFunc(t.Context(), func(context.Context, *pgx.ConnConfig) (*pgx.Conn, error) { panic("oops") })
			}()
		}
		if n := inUseOf(pm, "pg1"); n != 0 {
			t.Errorf("%d connections in use", n)
		}
		conn, err := connectTo(t, pm.Master())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close(t.Context())
	})
}

// A guest that is lent and given back without a word is at rest again.
func TestGuestThatSaysNothingIsInNobodysWay(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		pool := following(t, pm.Master())
		for range 2 {
			acquire(t, pool.Acquire).Release()
		}
		if took := timed(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := pm.Pause(ctx); err != nil {
				t.Error(err)
			}
		}); took > 2*time.Second {
			t.Errorf("Pause took %v", took)
		}
	})
}
