package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"go.uber.org/goleak"
)

// calmClusterOfOne returns the shared cluster's master as if it were all.
func calmClusterOfOne(t testing.TB) clusterOfOne { return clusterOfOne{calmCluster(t).Nodes()[0]} }

type clusterOfOne struct{ *pgcluster.Node }

func (c clusterOfOne) Nodes() []*pgcluster.Node { return []*pgcluster.Node{c.Node} }

// fill borrows every connection that the master's pool can lend. The test's end releases them.
func fill(t testing.TB, m *manager, n int) (release func()) {
	t.Helper()
	var held []*pgxpool.Conn
	for range n {
		conn, err := m.AcquireMaster(testContext(t))
		must(t, err)
		held = append(held, conn)
	}
	release = func() {
		for _, conn := range held {
			conn.Release()
		}
		held = nil
	}
	t.Cleanup(release)
	return release
}

func TestFullPoolIsNoDeadNode(t *testing.T) {
	ctx := testContext(t)
	cluster := calmClusterOfOne(t)
	m := openReady(t, cluster, maxConns(2), budget(300*time.Millisecond))
	release := fill(t, m, 2)
	mark := m.mark()
	for range 3 {
		must(t, m.WaitNextCheck(ctx))
	}
	err := acquireWithin(t, m, ctx)
	outOfBudget(t, err)
	if text := err.Error(); !strings.Contains(text, "all 2 are in use") || !strings.Contains(text, cluster.Addr()+" up master, 2 of 2 connections in use") {
		t.Errorf("the error of an acquire from a full pool: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- m.Master().Ping(ctx) }()
	release()
	if err := <-waiting; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	must(t, m.Master().Ping(ctx))
	m.undisturbed(mark)
	m.idle()
}

func TestSlowStatementIsNoDeadNode(t *testing.T) {
	ctx := testContext(t)
	cluster := calmClusterOfOne(t)
	m := openReady(t, cluster, func(c *hasql.Config) { c.CheckTimeout, c.DownTimeout = 10*time.Second, 10*time.Second })
	blocker := connect(t, cluster.Node)
	_, err := blocker.Exec(ctx, "select pg_advisory_lock(4711)")
	must(t, err)
	mark := m.mark()
	slow := make(chan error, 1)
	go func() {
		_, err := m.Master().Exec(ctx, "select pg_advisory_lock(4711)")
		slow <- err
	}()
	for range 5 {
		must(t, m.WaitNextCheck(ctx))
	}
	m.undisturbed(mark)
	_, err = blocker.Exec(ctx, "select pg_advisory_unlock(4711)")
	must(t, err)
	must(t, <-slow)
}

func TestErrorsOfStatementsAreNoDeadNode(t *testing.T) {
	ctx := testContext(t)
	m := openReady(t, calmCluster(t))
	mark := m.mark()
	raise := func(code string) string {
		return fmt.Sprintf("do $$ begin raise exception 'of a test' using errcode = '%s'; end $$", code)
	}
	statements := []string{
		"select 1/0", "selct", "select * from no_such_table", "set statement_timeout = 1; select pg_sleep(10)",
		raise("XX000"), raise("53300"), raise("57P01"), raise("57P03"), raise("08006"), raise("25006"), raise("40001"), raise("58030"),
		"select pg_cancel_backend(pg_backend_pid())", "select pg_terminate_backend(pg_backend_pid())",
	}
	for range 10 {
		for _, sql := range statements {
			for _, route := range []*hasql.Route{m.Master(), m.Replica()} {
				conn, err := route.Acquire(ctx)
				must(t, err)
				_, err = conn.Conn().PgConn().Exec(ctx, sql).ReadAll()
				if err == nil {
					t.Errorf("%s did not fail", sql)
				}
				if !conn.Conn().IsClosed() {
					_, err = conn.Exec(ctx, "reset statement_timeout")
					must(t, err)
				}
				conn.Release()
			}
		}
	}
	if _, err := m.Replica().Exec(ctx, "create table written_to_a_replica ()"); err == nil || !strings.Contains(err.Error(), "25006") {
		t.Errorf("a write to a replica: %v", err)
	}
	m.undisturbed(mark)
	m.idle()
}

func TestTerminatedSessionsAreNoDeadNode(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	master := cluster.Nodes()[0]
	m := openReady(t, cluster, maxConns(4))
	admin := connect(t, master)
	mark := m.mark()
	for range 5 {
		release := fill(t, m, 4)
		release()
		// The four of the pool and the monitor's.
		_, err := admin.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1", t.Name())
		must(t, err)
		for failures := 0; ; failures++ {
			if failures > 4 {
				t.Fatal("more statements failed than there were sessions")
			}
			if _, err := m.Master().Exec(ctx, "select 1"); err == nil {
				break
			}
		}
	}
	m.undisturbed(mark)
	m.idle()
}

func TestAcquireTimeoutCoversTheWaitForANode(t *testing.T) {
	ctx := testContext(t)
	replica := calmCluster(t).Nodes()[1]
	m := open(t, replica.DSN(), budget(300*time.Millisecond))
	must(t, m.Ready(ctx, 0, 1))
	err := acquireWithin(t, m, ctx)
	outOfBudget(t, err)
	if !strings.Contains(err.Error(), replica.Addr()+" up replica") {
		t.Errorf("the error of an acquire without a master: %v", err)
	}

	m = open(t, replica.DSN(), budget(-1))
	must(t, m.Ready(ctx, 0, 1))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := m.AcquireMaster(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an AcquireTimeout: %v", err)
	}
}

func TestCancelledAcquiresLeaveNothingBehind(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	m := openReady(t, cluster, maxConns(2))
	release := fill(t, m, 2)
	before := []goleak.Option{
		goleak.IgnoreCurrent(),
		goleak.IgnoreAnyFunction("github.com/pghasql/hasql.(*monitor).watch"), // monitors go on, in ever new goroutines
		goleak.IgnoreAnyFunction("github.com/pghasql/hasql.(*monitor).ask"),
	}
	routes := []*hasql.Route{m.Master(), m.Replica(hasql.AtLeast(1 << 62)), m.Replica(hasql.WithMaxLag(1), hasql.AtLeast(1<<62))}
	var all sync.WaitGroup
	for i := range 1000 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			if i%10 == 0 {
				cancel()
			} else {
				time.AfterFunc(time.Duration(rand.IntN(100))*time.Millisecond, cancel)
			}
			conn, err := routes[i%len(routes)].Acquire(ctx)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled acquire: %v, %v", conn, err)
			}
		})
	}
	all.Wait()
	if err := goleak.Find(before...); err != nil {
		t.Error(err)
	}
	for node := range m.Snapshot().Nodes() {
		if want := map[bool]int{true: 2}[node.Role == hasql.RoleMaster]; node.InUse() != want {
			t.Errorf("%s: %d connections in use", node.Name, node.InUse())
		}
	}
	release()
	fill(t, m, 2)
}

func TestAcquiresCancelledAtAnyMomentLeaveNothingBehind(t *testing.T) {
	ctx := testContext(t)
	m := openReady(t, calmCluster(t), maxConns(3))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 50 {
				ctx, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(2000))*time.Microsecond)
				conn, err := m.Acquire(ctx, rand.IntN(2) == 0)
				if err == nil {
					conn.Exec(ctx, "select 1") // fails or not
					conn.Release()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("acquire: %v", err)
				}
				cancel()
			}
		})
	}
	all.Wait()
	m.idle()
	fill(t, m, 3) // every place of the pool can be had
}

func TestAThousandWaitersGetThroughAFailover(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, maxConns(10))
	must(t, m.Master().Ping(ctx))
	must(t, old.Kill())
	m.awaitStatus(old, hasql.StatusDown)
	wait := acquireMany(t, m, ctx, 1000)
	must(t, next.Promote(ctx))
	only(t, wait(), next)
	m.idle()
	if failures := m.Stat().Target(hasql.TargetMaster).Failures; failures > 0 {
		t.Errorf("%d acquires failed", failures)
	}
}

func TestIdleClusterCostsOneConnectionForEachNode(t *testing.T) {
	cluster := calmCluster(t)
	m := openReady(t, cluster)
	for range 5 {
		must(t, m.WaitNextCheck(testContext(t)))
	}
	for _, n := range cluster.Nodes() {
		const mine = "select count(*) from pg_stat_activity where application_name = $1"
		if got := scan[int](t, connect(t, n), mine, t.Name()); got != 1 {
			t.Errorf("%d connections to %s", got, n.Addr())
		}
		if got := scan[int](t, connect(t, n), mine+" and state <> 'active' and xact_start is not null", t.Name()); got != 0 {
			t.Errorf("%s: a probe left a transaction open", n.Addr())
		}
	}
}

func TestRestartedNodeIsNotAskedOverOldConnections(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	m := openReady(t, cluster, maxConns(8), func(c *hasql.Config) {
		c.Nodes[0].Pool.MinConns = 3
		c.Nodes[0].Pool.HealthCheckPeriod = 200 * time.Millisecond
	})
	for range 3 {
		fill(t, m, 8)()
		must(t, n.Stop(ctx, pgcluster.StopFast))
		m.awaitStatus(n, hasql.StatusDown)
		must(t, n.Start(ctx))
		for range 30 {
			if _, err := m.Master().Exec(ctx, "select 1"); err != nil {
				t.Errorf("a statement after the restart: %v", err)
			}
		}
	}
	m.await("MinConns", func(s *hasql.Snapshot) bool { // until then the library itself borrows some
		now := state(s, n)
		return m.Stat().Nodes()[0].Pool.TotalConns() >= 3 && now.InUse() == 0
	})
}

func TestFailedDialIsRetriedOnTheNextNode(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	closed, other := cluster.Nodes()[1], cluster.Nodes()[2]
	var dials atomic.Int64
	m := openReady(t, cluster, func(c *hasql.Config) {
		c.Nodes[1].Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) > 1 { // the first is the monitor's
				return nil, syscall.ECONNREFUSED
			}
			return dialer.DialContext(ctx, network, addr)
		}
	})
	mark := m.mark()
	for range 100 {
		conn, err := m.AcquireReplica(ctx)
		must(t, err)
		if got := nodeOf(conn); got != other.Addr() {
			t.Fatalf("a connection to %s", got)
		}
		conn.Release()
	}
	if dials.Load() < 2 {
		t.Errorf("%s was not dialled, so this test shows nothing", closed.Addr())
	}
	m.undisturbed(mark)
	m.idle()
}
