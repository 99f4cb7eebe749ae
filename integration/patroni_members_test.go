package integration

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/discovery"
	"github.com/pghasql/hasql/integration/internal/patroni"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// byAddress is a Discoverer whose nodes are called by their addresses, as those of a DSN are.
type byAddress struct{ hasql.Discoverer }

func (d byAddress) Discover(ctx context.Context) ([]hasql.Endpoint, error) {
	list, err := d.Discoverer.Discover(ctx)
	for i := range list {
		list[i].Name = ""
	}
	return list, err
}

// openPatroni is open, with the nodes that the REST API of the cluster lists.
func openPatroni(t *testing.T, cluster *patroni.Cluster) *manager {
	t.Helper()
	var urls []string
	for _, m := range cluster.Members() {
		urls = append(urls, m.API())
	}
	m := open(t, cluster.DSN(), func(config *hasql.Config) {
		config.Discoverer, config.DiscoveryInterval = byAddress{discovery.Patroni(urls...)}, time.Second
	})
	must(t, m.Ready(testContext(t), 1, len(urls)-1))
	return m
}

// needPatroniRuns skips a test that takes minutes.
func needPatroniRuns(t *testing.T) {
	t.Helper()
	if os.Getenv("HASQL_PATRONI_RUNS") == "" {
		t.Skip("HASQL_PATRONI_RUNS is not set: it takes minutes")
	}
}

const plannedSwitchovers = 20

// inTransaction writes in an explicit transaction of several statements, which nobody repeats.
func inTransaction(ctx context.Context, conn *pgxpool.Conn, id int64) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range []string{"select count(*) from writes where id = $1", "insert into writes values ($1)", "select count(*) from writes where id = $1"} {
			if _, err := tx.Exec(ctx, sql, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// testPlannedSwitchover holds writes back while the master changes. Nobody's transaction may fail.
func testPlannedSwitchover(t *testing.T, m *manager, next server, switchover func() error) {
	t.Helper()
	ctx := testContext(t)
	_, err := m.Master().Exec(ctx, "drop table if exists writes")
	must(t, err)
	w := startWritersOf(t, m, 8, inTransaction)
	w.progress(5)
	must(t, m.Pause(ctx))
	began := time.Now()
	must(t, switchover())
	m.awaitMaster(next)
	m.Resume()
	t.Logf("paused for %v", time.Since(began).Round(time.Millisecond))
	w.progress(5)
	w.end(next)
}

func TestPlannedSwitchoversFailNoTransaction(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	for i := range plannedSwitchovers {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			ctx := testContext(t)
			testPlannedSwitchover(t, openReady(t, cluster), b, func() error {
				must(t, a.Stop(ctx, pgcluster.StopFast))
				return b.Promote(ctx)
			})
			must(t, a.Rejoin(ctx, b))
			a, b = b, a
		})
	}
}

func TestPlannedSwitchoversOfPatroniFailNoTransaction(t *testing.T) {
	needPatroniRuns(t)
	t.Parallel()
	cluster := startPatroni(t)
	for i := range plannedSwitchovers {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) { testPatroniSwitchover(t, cluster, cluster.Switchover) })
	}
	t.Run("scheduled", func(t *testing.T) {
		testPatroniSwitchover(t, cluster, func(ctx context.Context, old, next *patroni.Member) error {
			return cluster.ScheduleSwitchover(ctx, old, next, time.Now().Add(time.Second))
		})
	})
}

func testPatroniSwitchover(t *testing.T, cluster *patroni.Cluster, switchover func(ctx context.Context, old, next *patroni.Member) error) {
	t.Helper()
	ctx := testContext(t)
	must(t, cluster.Healthy(ctx))
	old, err := cluster.Leader(ctx)
	must(t, err)
	next, err := cluster.Synchronous(ctx)
	must(t, err)
	testPlannedSwitchover(t, openPatroni(t, cluster), next, func() error { return switchover(ctx, old, next) })
}

// patroniLoad is a service that writes and reads while members come and go.
type patroniLoad struct {
	t *testing.T
	m *manager
	w *writers
	r *reader
}

func startPatroniLoad(t *testing.T, cluster *patroni.Cluster) *patroniLoad {
	t.Helper()
	m := openPatroni(t, cluster)
	return &patroniLoad{t, m, startWriters(t, m, patroniWriters), startReader(t, m)}
}

func (l *patroniLoad) progress() {
	l.t.Helper()
	l.w.progress(20)
	l.r.progress(20)
}

// drain takes a member out of service, so that nothing fails when it is broken.
func (l *patroniLoad) drain(n *patroni.Member) {
	l.t.Helper()
	must(l.t, l.m.Drain(testContext(l.t), n.Addr(), hasql.BanOptions{Reason: "work on " + n.Name()}))
}

// end checks that nothing has failed.
func (l *patroniLoad) end(cluster *patroni.Cluster) {
	l.t.Helper()
	l.progress()
	leader, err := cluster.Leader(testContext(l.t))
	must(l.t, err)
	l.r.end()
	l.w.end(leader)
}

// TestPatroniScales adds two members to a cluster of two, and removes two, under load.
func TestPatroniScales(t *testing.T) {
	needPatroniRuns(t)
	t.Parallel()
	cluster := startPatroniOf(t, 2)
	l := startPatroniLoad(t, cluster)
	var added []*patroni.Member
	for range 2 {
		l.progress()
		n, err := cluster.Add(testContext(t))
		must(t, err)
		began := time.Now()
		awaitRead(t, l.m, l.m.Replica(), n)
		t.Logf("%s served its first read %v after Patroni saw it healthy", n.Name(), time.Since(began).Round(time.Millisecond))
		added = append(added, n)
	}
	must(t, l.m.Ready(testContext(t), 1, 3))
	for _, n := range added {
		l.progress()
		l.drain(n)
		must(t, cluster.Remove(testContext(t), n))
	}
	for _, n := range added { // Patroni forgets a member when its time (ttl) is up
		l.m.await(n.Addr()+" to leave", func(s *hasql.Snapshot) bool {
			_, known := s.Node(n.Addr())
			return !known
		})
	}
	l.end(cluster)
}

// TestPatroniReinitializesADrainedReplica has the data of a replica made anew, under load.
func TestPatroniReinitializesADrainedReplica(t *testing.T) {
	needPatroniRuns(t)
	t.Parallel()
	ctx, cluster := testContext(t), startPatroni(t)
	l := startPatroniLoad(t, cluster)
	n, err := cluster.Synchronous(ctx)
	must(t, err)
	l.drain(n)
	must(t, n.Reinitialize(ctx))
	l.m.awaitStatus(n, hasql.StatusBanned) // though it was no member while it had no data
	l.progress()
	must(t, l.m.Unban(n.Addr()))
	awaitRead(t, l.m, l.m.Replica(), n)
	l.end(cluster)
}
