package hasql

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/pgfake"
)

func TestForgetClusterLetsGoOfATimeline(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg2").Promote()
		acquire(t, pm.AcquireMaster).Release()
		time.Sleep(2 * DefaultCheckInterval)
		c.Node("pg2").Kill()
		time.Sleep(time.Hour)
		if got := status(pm, "pg1"); got != StatusStale {
			t.Fatalf("pg1 is %v", got)
		}
		var waiting sync.WaitGroup
		began := time.Now()
		for range 10 {
			waiting.Go(func() {
				conn, err := pm.AcquireMaster(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Release()
				if got := nodeOf(t, conn); got != "pg1" {
					t.Errorf("a write went to %s", got)
				}
			})
		}
		synctest.Wait()
		pm.ForgetCluster()
		waiting.Wait()
		// The nodes are asked at once, not when they are due. pg2 refuses.
		if took := time.Since(began); took > DefaultRecoveryInterval {
			t.Errorf("the master was found after %v", took)
		}
	})
}

func TestForgetClusterClosesConnectionsAndFindsTheSameClusterAgain(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireMaster)
		acquire(t, pm.AcquireReplica).Release()
		pm.ForgetCluster()
		for range 3 {
			pm.ForgetCluster()
		}
		ready(t, pm)
		if got := nodeOf(t, lent); got != "pg1" {
			t.Errorf("a connection in use leads to %s", got)
		}
		lent.Release()
		synctest.Wait()
		for i, p := range poolsOf(pm) {
			if n := p.Stat().TotalConns(); n != 0 {
				t.Errorf("pool %d has %d connections of before", i, n)
			}
		}
		acquire(t, pm.AcquireMaster).Release()
		acquire(t, pm.AcquireReplica).Release()
		if err := pm.Close(t.Context()); err != nil {
			t.Error(err)
		}
		pm.ForgetCluster() // must not hang
	})
}

func TestFirstOfTwoNodesIsUsedThoughTheOtherHangs(t *testing.T) {
	for frozen, want := range map[string]time.Duration{"pg2": 0, "pg1": DefaultCheckTimeout} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			other := map[string]string{"pg1": "pg2", "pg2": "pg1"}[frozen]
			if other != "pg1" {
				c.Node(other).Promote()
			}
			c.Node(frozen).Freeze()
			began := time.Now()
			pm := open(t, c, func(c *Config) { c.Nodes = c.Nodes[:2] })
			conn := acquire(t, pm.AcquireMaster)
			defer conn.Release()
			if got, took := nodeOf(t, conn), time.Since(began); got != other || took != want {
				t.Errorf("with %s hung, %s took the first write after %v, not %v", frozen, got, took, want)
			}
		})
	}
}

func TestNobodyIsUpAfterClose(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var changes int
		pm := open(t, c, func(c *Config) {
			c.Hooks.NodeChanged = func(NodeState, NodeState) { changes++ }
			c.Hooks.MasterChanged = func(NodeState, NodeState, time.Duration) { changes++ }
		})
		ready(t, pm)
		synctest.Wait()
		told := changes
		conn := acquire(t, pm.AcquireMaster)
		go func() {
			time.Sleep(time.Second)
			if got := nodeOf(t, conn); got != "pg1" {
				t.Errorf("a connection in use leads to %s", got)
			}
			conn.Release()
		}()
		if err := pm.Close(t.Context()); err != nil {
			t.Error(err)
		}
		s := pm.Snapshot()
		if s.MasterCount() != 0 || s.ReplicaCount() != 0 || s.NoMasterSince().IsZero() {
			t.Errorf("%d masters, %d replicas, none since %v", s.MasterCount(), s.ReplicaCount(), s.NoMasterSince())
		}
		for n := range s.Nodes() {
			if n.Status != StatusSuspect || n.Cause != ErrClosed || n.LagKnown || n.Report.SystemID == 0 {
				t.Errorf("%s", n.String())
			}
		}
		if changes != told {
			t.Errorf("%d changes were told by Close", changes-told)
		}
	})
}

func TestForgetClusterWhileANodeHangs(t *testing.T) {
	for _, hang := range []time.Duration{700 * time.Millisecond, time.Minute} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) { config.Nodes = []NodeConfig{config.Nodes[1], config.Nodes[0]} })
			if err := pm.Ready(t.Context(), 1, 1); err != nil {
				t.Fatal(err)
			}
			c.Node("pg2").Cut()
			time.Sleep(hang + DefaultCheckInterval)
			acquire(t, pm.AcquireMaster).Release()
			pm.ForgetCluster()
			began := time.Now()
			acquire(t, pm.AcquireMaster).Release()
			took := time.Since(began)
			if took > DefaultCheckTimeout+DefaultRecoveryInterval {
				t.Errorf("it hung for %v, and the master was found after %v", hang, took)
			}
			c.Node("pg2").Heal()
		})
	}
}

func TestForgetClusterWhileAHookHangs(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var hang atomic.Bool
		pm := open(t, c, func(config *Config) {
			config.Nodes = []NodeConfig{config.Nodes[1], config.Nodes[0]}
			config.Nodes[0].Pool.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
				if hang.Load() {
					<-ctx.Done()
				}
				return ctx.Err()
			}
		})
		if err := pm.Ready(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		hang.Store(true)
		c.Node("pg2").TerminateAll()
		time.Sleep(5 * time.Second)
		acquire(t, pm.AcquireMaster).Release()
		pm.ForgetCluster()
		acquire(t, pm.AcquireMaster).Release()
	})
}
