package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// patient lets a connection attempt take as long as it likes, so that nothing but the library itself ends the wait for a
// node that hangs.
func patient(c *hasql.Config) {
	for _, node := range c.Nodes {
		node.Pool.ConnConfig.ConnectTimeout = never
		node.Pool.PingTimeout = never
		node.Pool.ConnConfig.DialFunc = dialer.DialContext
	}
}

// maxConns limits every node's pool.
func maxConns(n int32) func(*hasql.Config) {
	return func(c *hasql.Config) {
		for _, node := range c.Nodes {
			node.Pool.MaxConns = n
		}
	}
}

func TestHungReplicaDelaysNobody(t *testing.T) {
	// The hung node's probe never ends, so whoever waits for it waits for ever.
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	master, next, hung := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	must(t, cluster.SetSynchronous(ctx, master, 1))
	m := openReady(t, cluster, patient)
	w := startWriters(t, m, 4)
	w.progress(5)
	freeze(t, hung)
	w.progress(5)
	must(t, master.Kill())
	m.awaitStatus(master, hasql.StatusDown)
	must(t, cluster.SetSynchronous(ctx, next, 0)) // nobody would answer
	must(t, next.Promote(ctx))
	w.progress(5)
	w.end(next, master)
}

func TestHungReplicaGetsNoReadsOnceItIsSuspect(t *testing.T) {
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	other, hung := cluster.Nodes()[1], cluster.Nodes()[2]
	m := openReady(t, cluster, quickly, patient)
	freeze(t, hung)
	m.awaitStatus(hung, hasql.StatusSuspect)
	for range 100 {
		if got := servedBy(t, m.Replica()); got != other.Addr() {
			t.Fatalf("a read went to %s", got)
		}
	}
	must(t, hung.Thaw())
	awaitRead(t, m, m.Replica(), hung)
	m.idle()
}

func TestNodeThatStaysSilentIsDownAndItsStatementsEnd(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	master := cluster.Nodes()[0]
	m := openReady(t, cluster, quickly, func(c *hasql.Config) { c.DownTimeout = 600 * time.Millisecond })
	running := hold(t, m)
	freeze(t, master)
	m.awaitStatus(master, hasql.StatusDown)
	cutWith(t, <-running, master, hasql.StatusDown)
	waiting := make(chan error, 1)
	go func() { waiting <- m.Master().Ping(ctx) }()
	must(t, master.Thaw())
	must(t, <-waiting)
}

func TestStallShorterThanDownTimeoutKeepsStatements(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	master := cluster.Nodes()[0]
	m := openReady(t, cluster, quickly)
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	defer conn.Release()
	freeze(t, master)
	answer := make(chan error, 1)
	go func() {
		var n int
		answer <- conn.QueryRow(ctx, "select 42").Scan(&n)
	}()
	m.awaitStatus(master, hasql.StatusSuspect)
	must(t, master.Thaw())
	must(t, <-answer)
	m.awaitMaster(master)
}

// acquireMany acquires from the master n times at once. Each sends the node it got, or an error, and releases.
func acquireMany(t testing.TB, m *manager, ctx context.Context, n int) (wait func() map[string]int) {
	t.Helper()
	var mu sync.Mutex
	got := make(map[string]int)
	var all, started sync.WaitGroup
	started.Add(n)
	for range n {
		all.Go(func() {
			started.Done()
			conn, err := m.AcquireMaster(ctx)
			node := ""
			if err == nil {
				node = nodeOf(conn)
				err = conn.Ping(ctx)
				conn.Release()
			}
			if err != nil {
				t.Errorf("acquire, %s: %v", node, err)
			}
			mu.Lock()
			got[node]++
			mu.Unlock()
		})
	}
	started.Wait()
	return func() map[string]int {
		all.Wait()
		return got
	}
}

func only(t testing.TB, got map[string]int, n *pgcluster.Node) {
	t.Helper()
	if len(got) != 1 || got[n.Addr()] == 0 {
		t.Errorf("connections came from %v, not only from %s", got, n.Addr())
	}
}

func TestAcquiresThatDialAHungMasterGoOnAfterPromotion(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, quickly, patient)
	freeze(t, old)
	wait := acquireMany(t, m, ctx, 50) // the pool is empty, so they dial
	m.awaitStatus(old, hasql.StatusSuspect)
	must(t, next.Promote(ctx))
	only(t, wait(), next)
	m.idle()
}

func TestAcquiresQueuedAtAHungMasterGoOnAfterPromotion(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, quickly, patient, maxConns(2))
	var held []*pgxpool.Conn
	for range 2 {
		conn, err := m.AcquireMaster(ctx)
		must(t, err)
		held = append(held, conn)
	}
	wait := acquireMany(t, m, ctx, 50)
	for node := state(m.Snapshot(), old); node.InUse() < 52; { // they all queue
		must(t, m.WaitNextCheck(ctx))
	}
	freeze(t, old)
	m.awaitStatus(old, hasql.StatusSuspect)
	must(t, next.Promote(ctx))
	only(t, wait(), next)
	for _, conn := range held {
		_, err := conn.Exec(ctx, "select 1")
		if _, ok := errors.AsType[*hasql.NodeDownError](err); !ok {
			t.Errorf("a statement on the old master: %v", err)
		}
		conn.Release()
	}
	m.idle()
}

func TestAcquiresInTheUsersHookOnAHungMasterGoOnAfterPromotion(t *testing.T) {
	// A PrepareConn that asks the server, such as for a setting of the session, is a common one.
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	var asking sync.Map
	m := openReady(t, cluster, quickly, patient, func(c *hasql.Config) {
		for _, node := range c.Nodes {
			node.Pool.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
				if until, ok := ctx.Value(asked{}).(chan struct{}); ok {
					if _, again := asking.LoadOrStore(until, nil); !again {
						close(until)
					}
				}
				_, err := conn.Exec(ctx, "set statement_timeout = 0")
				return err == nil, nil
			}
		}
	})
	must(t, m.Master().Ping(ctx)) // one connection is idle now
	freeze(t, old)
	began := make(chan struct{})
	wait := acquireMany(t, m, context.WithValue(ctx, asked{}, began), 1)
	<-began
	m.awaitStatus(old, hasql.StatusSuspect)
	must(t, next.Promote(ctx))
	only(t, wait(), next)
	m.idle()
}

type asked struct{}

func TestBudgetOfAnAcquireHoldsInTheUsersHook(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	m := openReady(t, cluster, patient, budget(300*time.Millisecond), func(c *hasql.Config) {
		c.Nodes[0].Pool.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
			_, err := conn.Exec(ctx, "select 1")
			return err == nil, nil
		}
	})
	must(t, m.Master().Ping(ctx))
	freeze(t, cluster.Nodes()[0])
	outOfBudget(t, acquireWithin(t, m, ctx))
}

func TestBudgetOfAnAcquireHoldsBehindAbandonedStatements(t *testing.T) {
	// pgx takes its time to part from a connection whose statement was given up on a server that hangs. That
	// connection counts as one of the pool until then.
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	m := openReady(t, cluster, patient, maxConns(8), budget(300*time.Millisecond))
	var held []*pgxpool.Conn
	for range 8 {
		conn, err := m.AcquireMaster(ctx)
		must(t, err)
		held = append(held, conn)
	}
	freeze(t, cluster.Nodes()[0])
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	var all sync.WaitGroup
	for _, conn := range held {
		all.Go(func() {
			if _, err := conn.Exec(short, "select 1"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a statement on a frozen node: %v", err)
			}
		})
	}
	all.Wait()
	for _, conn := range held {
		conn.Release()
	}
	for range 8 {
		all.Go(func() { outOfBudget(t, acquireWithin(t, m, ctx)) })
	}
	all.Wait()
}

func TestBudgetOfAnAcquireHoldsWhileAReleaseIsUnderWay(t *testing.T) {
	ctx := testContext(t)
	release := make(chan struct{})
	m := openReady(t, calmClusterOfOne(t), maxConns(1), budget(300*time.Millisecond), func(c *hasql.Config) {
		c.Nodes[0].Pool.AfterRelease = func(*pgx.Conn) bool {
			<-release
			return true
		}
	})
	defer close(release)
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	conn.Release()
	outOfBudget(t, acquireWithin(t, m, ctx))
}

// budget sets AcquireTimeout.
func budget(d time.Duration) func(*hasql.Config) {
	return func(c *hasql.Config) { c.AcquireTimeout = d }
}

// acquireWithin acquires under a context that sets no limit of its own, and gives up when ctx ends.
func acquireWithin(t testing.TB, m *manager, ctx context.Context) error {
	t.Helper()
	unlimited, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	result := make(chan error, 1)
	go func() {
		conn, err := m.AcquireMaster(unlimited)
		if err == nil {
			conn.Release()
		}
		result <- err
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		cancel()
		return fmt.Errorf("the acquire went on for the whole test, then: %w", errors.Join(errTooLong, <-result))
	}
}

var errTooLong = errors.New("too long")

// outOfBudget checks that an acquire ended at its AcquireTimeout.
func outOfBudget(t testing.TB, err error) {
	t.Helper()
	_, ok := errors.AsType[*hasql.NoNodeError](err)
	if !ok || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTooLong) {
		t.Errorf("an acquire beyond its AcquireTimeout ended with %v", err)
	}
}

func TestCloseDoesNotWaitForAHungNode(t *testing.T) {
	// Nothing is in use, so there is nothing to be graceful about.
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	for _, timeouts := range []func(*hasql.Config){
		quickly,
		func(c *hasql.Config) { c.CheckTimeout, c.DownTimeout = 300*time.Millisecond, 600*time.Millisecond },
	} {
		m := openReady(t, cluster, timeouts)
		must(t, m.Master().Ping(testContext(t)))
		must(t, m.Replica().Ping(testContext(t)))
		must(t, cluster.Nodes()[1].Freeze())
		m.await("the hung node to be noticed", func(s *hasql.Snapshot) bool { return s.ReplicaCount() == 0 })
		if err := closeSoon(m); err != nil {
			t.Errorf("Close: %v", err)
		}
		must(t, cluster.Nodes()[1].Thaw())
	}
}
