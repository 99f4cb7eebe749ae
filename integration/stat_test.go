package integration

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func TestStatTellsWhatHappened(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	master := cluster.Nodes()[0]
	m := openReady(t, cluster, maxConns(2))
	for range 30 {
		must(t, m.Master().Ping(ctx))
		must(t, m.Replica().Ping(ctx))
		must(t, m.Replica(hasql.WithMasterAsReplicaWeight(1)).Ping(ctx))
		must(t, m.Default().Ping(ctx))
	}
	release := fill(t, m, 2)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := m.AcquireMaster(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	st := m.Stat()
	if len(st.Nodes()) != 3 {
		t.Fatalf("%d nodes", len(st.Nodes()))
	}
	var sum hasql.TargetStat
	for i, node := range st.Nodes() {
		n := cluster.Nodes()[i]
		role := map[bool]hasql.Role{true: hasql.RoleMaster, false: hasql.RoleReplica}[n == master]
		if node.Name != n.Addr() || node.Role != role || node.Status != hasql.StatusUp || node.Age < 0 || node.Latency <= 0 {
			t.Errorf("node %d: %v, %v old, latency %v", i, node.String(), node.Age, node.Latency)
		}
		if node.Pool.MaxConns() != 2 || node.Pool.TotalConns() < 1 || node.Pool.TotalConns() > 2 {
			t.Errorf("%s: %d of %d connections", node.Name, node.Pool.TotalConns(), node.Pool.MaxConns())
		}
		lent := map[bool]int{true: 2}[n == master]
		if int(node.Pool.AcquiredConns()) != lent || node.InUse() != lent || node.Free() != 2-lent {
			t.Errorf("%s: %d acquired, %d in use, %d free", node.Name, node.Pool.AcquiredConns(), node.InUse(), node.Free())
		}
		if n == master && (node.Acquires(hasql.TargetMaster) != 32 || node.Acquires(hasql.TargetReplica) != 30) {
			t.Errorf("the master's acquires: %d and %d", node.Acquires(hasql.TargetMaster), node.Acquires(hasql.TargetReplica))
		}
		if n != master && (node.Acquires(hasql.TargetMaster) != 0 || node.Acquires(hasql.TargetReplica) == 0) {
			t.Errorf("a replica's acquires: %d and %d", node.Acquires(hasql.TargetMaster), node.Acquires(hasql.TargetReplica))
		}
		sum.Acquires += node.Acquires(hasql.TargetReplica)
	}
	target := st.Target(hasql.TargetMaster)
	if target.Acquires != 32 || target.Failures != 1 || target.Waits < 1 || target.WaitTime <= 0 {
		t.Errorf("acquires from the master: %+v", target)
	}
	if got := st.Target(hasql.TargetReplica); got.Acquires != 60 || sum.Acquires != 60 || got.Failures != 0 {
		t.Errorf("acquires from replicas: %+v, by node %d", got, sum.Acquires)
	}
	if got := st.Target(hasql.TargetAny); got.Acquires != 30 {
		t.Errorf("acquires from any node: %+v", got)
	}
	release()
	m.idle()
}

func TestStatOfANodeThatWasNeverHeard(t *testing.T) {
	m := open(t, "postgres://postgres@127.0.0.1:1/postgres?sslmode=disable")
	must(t, m.WaitNextCheck(testContext(t)))
	node := m.Stat().Nodes()[0]
	if node.Age >= 0 || node.Status != hasql.StatusDown || node.Cause == nil || node.Pool.TotalConns() != 0 {
		t.Errorf("%v, %v old, %d connections", node.String(), node.Age, node.Pool.TotalConns())
	}
}

func TestHooksTellEveryChangeInOrder(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	panicked := false
	m := openReady(t, cluster, func(c *hasql.Config) {
		c.Hooks.NodeChanged = func(_, new hasql.NodeState) {
			if !panicked && new.Status == hasql.StatusDown {
				panicked = true
				panic("of a test")
			}
		}
	})
	for range 2 {
		must(t, a.Kill())
		m.awaitStatus(a, hasql.StatusDown)
		must(t, b.Promote(ctx))
		m.awaitMaster(b)
		must(t, a.Rejoin(ctx, b))
		must(t, m.Ready(ctx, 1, 1))
		a, b = b, a
	}
	must(t, m.Close(ctx)) // returns after the last hook

	events, _ := m.seen()
	last := make(map[string]hasql.NodeState)
	master, masters := "", []string{}
	for _, e := range events {
		if e.master {
			if now := e.new.Name; now == master {
				t.Errorf("no change: %v", e)
			} else if now == "" && e.old.Name != master {
				t.Errorf("it was another that was lost: %v", e)
			}
			master = e.new.Name
			if master != "" {
				masters = append(masters, master)
				if e.gap <= 0 {
					t.Errorf("no gap: %v", e)
				}
			}
			continue
		}
		if before, known := last[e.new.Name]; known && (before.Role != e.old.Role || before.Status != e.old.Status) {
			t.Errorf("a change is missing before %v: it was %v", e, before.String())
		}
		if e.old.Role == e.new.Role && e.old.Status == e.new.Status {
			t.Errorf("no change: %v", e)
		}
		last[e.new.Name] = e.new
	}
	if want := []string{a.Addr(), b.Addr(), a.Addr()}; len(masters) != 3 || masters[0] != want[0] || masters[1] != want[1] || masters[2] != want[2] {
		t.Errorf("masters %v, not %v", masters, want)
	}
	if m.logs.FilterMessage("hook panicked").Len() != 1 {
		t.Error("the panic of a hook was not logged")
	}
}

func TestNotificationsToAMonitorAreNotKept(t *testing.T) {
	ctx := testContext(t)
	var kept atomic.Int64
	cluster := calmClusterOfOne(t)
	m := openReady(t, cluster, func(c *hasql.Config) {
		c.Checker = hasql.CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (hasql.Report, error) {
			if _, err := conn.Exec(ctx, "listen news"); err != nil {
				return hasql.Report{}, err
			}
			if _, err := conn.WaitForNotification(canceled()); err == nil {
				kept.Add(1)
			}
			return hasql.StandardChecker{}.Check(ctx, conn)
		})
	})
	for i := range 100 {
		_, err := m.Master().Exec(ctx, "select pg_notify('news', $1)", fmt.Sprint(i))
		must(t, err)
	}
	for range 3 {
		must(t, m.WaitNextCheck(ctx))
	}
	if n := kept.Load(); n > 0 {
		t.Errorf("%d notifications were kept for the monitor", n)
	}
}
