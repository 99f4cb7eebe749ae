package integration

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func TestReadyRefusesWhatCannotBe(t *testing.T) {
	m := openReady(t, calmCluster(t))
	for _, counts := range [][2]int{{-1, 0}, {0, -1}, {-2, -2}, {1, -5}, {2, 2}, {4, 0}, {0, 4}} {
		err := m.Ready(testContext(t), counts[0], counts[1])
		if _, waited := errors.AsType[*hasql.NoNodeError](err); err == nil || waited || !strings.HasPrefix(err.Error(), "hasql: ") {
			t.Errorf("Ready(%d, %d) = %v", counts[0], counts[1], err)
		}
	}
	for _, counts := range [][2]int{{0, 0}, {1, 0}, {0, 1}, {1, 2}, {-1, -1}} {
		if err := m.Ready(testContext(t), counts[0], counts[1]); err != nil {
			t.Errorf("Ready(%d, %d) = %v", counts[0], counts[1], err)
		}
	}
}

func TestReadyTellsThePresent(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master, replica := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster)
	must(t, m.Ready(ctx, -1, -1))
	must(t, replica.Kill())
	m.awaitStatus(replica, hasql.StatusDown)
	for _, counts := range [][2]int{{-1, -1}, {1, 1}, {0, 1}} {
		err := m.Ready(canceled(), counts[0], counts[1])
		if lost, ok := errors.AsType[*hasql.NoNodeError](err); !ok || !errors.Is(err, context.Canceled) || len(lost.Nodes) != 2 {
			t.Errorf("Ready(%d, %d) without a replica: %v", counts[0], counts[1], err)
		}
	}
	must(t, m.Ready(ctx, 1, 0))
	ready := make(chan error, 1)
	go func() { ready <- m.Ready(ctx, -1, -1) }()
	must(t, replica.Start(ctx))
	must(t, <-ready)
	must(t, master.Kill())
	m.awaitStatus(master, hasql.StatusDown)
	if err := m.Ready(canceled(), 1, 0); err == nil {
		t.Error("Ready(1, 0) without a master")
	}
}

// counting counts the probes of each node that began.
func counting(counts *sync.Map) func(*hasql.Config) {
	return func(c *hasql.Config) {
		c.Checker = hasql.CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (hasql.Report, error) {
			n, _ := counts.LoadOrStore(conn.Config().Port, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			return hasql.StandardChecker{}.Check(ctx, conn)
		})
	}
}

func TestWaitNextCheckSeesARoundThatBeganAfterTheCall(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	var probes sync.Map
	m := openReady(t, cluster, rarely, counting(&probes))
	total := func() (n int64) {
		for _, node := range cluster.Nodes() {
			count, _ := probes.Load(uint16(node.Port()))
			n += count.(*atomic.Int64).Load()
		}
		return n
	}
	for range 20 {
		before, called := total(), time.Now()
		must(t, m.WaitNextCheck(ctx))
		if after := total(); after < before+3 {
			t.Errorf("%d probes during the call", after-before)
		}
		for node := range m.Snapshot().Nodes() {
			if node.CheckedAt.Before(called) {
				t.Errorf("%s was probed %v before the call", node.Name, called.Sub(node.CheckedAt))
			}
		}
	}

	before := total()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if err := m.WaitNextCheck(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if probed := total() - before; probed > 100 {
		t.Errorf("100 calls at once cost %d probes of three nodes", probed)
	}
	if err := m.WaitNextCheck(canceled()); !errors.Is(err, context.Canceled) {
		t.Errorf("under a context that has ended: %v", err)
	}
}

func TestWaitNextCheckCountsNodesThatDoNotAnswer(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	m := openReady(t, cluster, quickly)
	must(t, cluster.Nodes()[1].Kill())
	freeze(t, cluster.Nodes()[2])
	for range 3 {
		must(t, m.WaitNextCheck(ctx))
	}
	must(t, m.Ready(ctx, 1, 0))
	m.awaitStatus(cluster.Nodes()[1], hasql.StatusDown)
	m.awaitStatus(cluster.Nodes()[2], hasql.StatusSuspect)
}
