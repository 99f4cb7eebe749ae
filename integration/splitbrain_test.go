package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"go.uber.org/zap"
)

// hold runs a statement that does not end by itself over a connection to the master, and returns where its error goes.
func hold(t testing.TB, m *manager) <-chan error {
	t.Helper()
	conn, err := m.AcquireMaster(testContext(t))
	must(t, err)
	return run(t, conn, "select pg_sleep(3600)")
}

// run runs a statement over conn, which it releases then.
func run(t testing.TB, conn *pgxpool.Conn, sql string) <-chan error {
	ended := make(chan error, 1)
	ctx := testContext(t)
	go func() {
		_, err := conn.Exec(ctx, sql)
		conn.Release()
		ended <- err
	}()
	return ended
}

// cutWith checks that a statement ended because its node was cut off.
func cutWith(t testing.TB, err error, n node, status hasql.Status) {
	t.Helper()
	down, ok := errors.AsType[*hasql.NodeDownError](err)
	if !ok || down.Node != n.Addr() || down.Status != status || down.Cause == nil {
		t.Errorf("a statement on %s ended with %v, not with a NodeDownError of a %v node", n.Addr(), err, status)
	}
}

func TestStatementsOnAFrozenMasterEndWhenANewerOneIsSeen(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, quickly)
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	running := hold(t, m)
	freeze(t, old)
	hanging := run(t, conn, "select 1")
	m.awaitStatus(old, hasql.StatusSuspect)
	must(t, next.Promote(ctx))
	m.awaitMaster(next)
	for name, statement := range map[string]<-chan error{"running": running, "hanging": hanging} {
		select {
		case err := <-statement:
			if down, ok := errors.AsType[*hasql.NodeDownError](err); !ok || down.Node != old.Addr() {
				t.Errorf("the %s statement ended with %v", name, err)
			}
		case <-ctx.Done():
			t.Errorf("the %s statement goes on though %s is the master now", name, next.Addr())
		}
	}
}

func TestThawedMasterIsFencedUntilItRejoins(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	old := cluster.Nodes()[0]
	m := openReady(t, cluster, quickly)
	if _, err := m.Master().Exec(ctx, createWrites); err != nil {
		t.Fatal(err)
	}
	running := hold(t, m)
	freeze(t, old)
	m.awaitStatus(old, hasql.StatusSuspect)
	next, third := failOver(t, cluster.Nodes()[1], cluster.Nodes()[2])
	m.awaitMaster(next)
	must(t, old.Thaw())
	m.awaitStatus(old, hasql.StatusStale)
	if _, ok := errors.AsType[*hasql.NodeDownError](<-running); !ok {
		t.Error("a statement on the stale master did not end with a NodeDownError")
	}

	if got := scan[bool](t, connect(t, old), "select pg_is_in_recovery()"); got {
		t.Fatal("the thawed master is not writable, so this test shows nothing")
	}
	everything := []*hasql.Route{m.Replica(hasql.WithFallbackMaster(true)), m.Replica(hasql.WithMasterAsReplicaWeight(0.5)), m.Default()}
	for i := range 200 {
		if got := servedBy(t, m.Master()); got != next.Addr() {
			t.Fatalf("a write went to %s", got)
		}
		if got := servedBy(t, m.Replica()); got != third.Addr() {
			t.Fatalf("a read went to %s", got)
		}
		if got := servedBy(t, everything[i%len(everything)]); got == old.Addr() {
			t.Fatal("the stale master was used")
		}
	}
	if s := state(m.Snapshot(), old); s.Role != hasql.RoleUnknown || !strings.Contains(s.Cause.Error(), "timeline 1, superseded by timeline 2") {
		t.Errorf("the stale master: %v", s.String())
	}
	awaitBackends(t, old, 1) // the monitor's

	must(t, next.Kill())
	m.awaitStatus(next, hasql.StatusDown)
	must(t, m.WaitNextCheck(ctx))
	_, err := m.AcquireMaster(canceled())
	if _, ok := errors.AsType[*hasql.NoNodeError](err); !ok || !strings.Contains(err.Error(), old.Addr()+" stale") {
		t.Errorf("with the new master dead, an acquire got: %v", err)
	}
	must(t, next.Start(ctx))
	if got := servedBy(t, m.Master()); got != next.Addr() {
		t.Errorf("a write went to %s", got)
	}

	must(t, old.Rejoin(ctx, next))
	must(t, m.Ready(ctx, 1, 2))
	awaitRead(t, m, m.Replica(), old)
	warned := m.logs.FilterLevelExact(zap.WarnLevel).FilterField(zap.String("node", old.Addr())).FilterField(zap.Stringer("status", hasql.StatusStale))
	if warned.Len() != 1 {
		t.Errorf("%d log lines tell that the old master is stale", warned.Len())
	}
}

func TestMasterThatGoesOnBesideAPromotedReplicaIsFenced(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster)
	running := hold(t, m)
	must(t, next.Promote(ctx))
	m.awaitMaster(next)
	cutWith(t, <-running, old, hasql.StatusStale)
	for range 100 {
		if got := servedBy(t, m.Master()); got != next.Addr() {
			t.Fatalf("a write went to %s", got)
		}
	}
	if m.Snapshot().MasterCount() != 1 || m.Snapshot().ReplicaCount() != 0 {
		t.Errorf("nodes: %v", describe(m.Snapshot()))
	}
	// One who comes only now is not fooled by the order in which the nodes answer.
	for range 5 {
		late := open(t, dsnOf(next, old))
		must(t, late.WaitNextCheck(ctx))
		if got := servedBy(t, late.Master()); got != next.Addr() {
			t.Errorf("a write went to %s", got)
		}
	}
}

func TestTwoMastersOnOneTimelineKeepTheIncumbent(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	first, incumbent, second := cluster.Nodes()[0], cluster.Nodes()[2], cluster.Nodes()[1]
	m := openReady(t, cluster)
	must(t, first.Kill())
	must(t, incumbent.Promote(ctx))
	m.awaitMaster(incumbent)
	must(t, second.Promote(ctx))
	m.awaitStatus(second, hasql.StatusStale)
	if s := state(m.Snapshot(), second); !strings.Contains(s.Cause.Error(), "second master on timeline 2 beside "+incumbent.Addr()) {
		t.Errorf("the second master: %v", s.String())
	}
	for range 100 {
		if got := servedBy(t, m.Master()); got != incumbent.Addr() {
			t.Fatalf("a write went to %s", got)
		}
	}
}

// TestClusterThatIsRolledBackIsFollowed promotes a replica beside the master, as in a drill, and makes it a replica again.
func TestClusterThatIsRolledBackIsFollowed(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	first, second := cluster.Nodes()[0], cluster.Nodes()[1]
	execute(t, first, "create role app login")
	must(t, second.WaitStreaming(ctx, first))
	monitor := openReady(t, cluster)
	ordinary := open(t, strings.Replace(cluster.DSN(), "postgres@", "app@", 1))
	must(t, ordinary.Ready(ctx, 1, 1))
	must(t, second.Promote(ctx))
	for _, m := range []*manager{monitor, ordinary} {
		m.awaitMaster(second)
		m.awaitStatus(first, hasql.StatusStale)
	}
	must(t, second.Rejoin(ctx, first))

	// Who may know what a standby receives has proof.
	if got := servedBy(t, monitor.Master()); got != first.Addr() {
		t.Errorf("a write went to %s", got)
	}
	must(t, monitor.Ready(ctx, 1, 1))

	// To all others it looks like an old master that has come back. Its error says what to do.
	ordinary.await("a replica", func(s *hasql.Snapshot) bool { return s.ReplicaCount() == 1 })
	must(t, ordinary.WaitNextCheck(ctx))
	_, err := ordinary.AcquireMaster(canceled())
	if err == nil || !strings.Contains(err.Error(), "on timeline 1, superseded by timeline 2, which no node is on now") || !strings.Contains(err.Error(), "ForgetCluster") {
		t.Errorf("an acquire of the master: %v", err)
	}
	ordinary.ForgetCluster()
	if got := servedBy(t, ordinary.Master()); got != first.Addr() {
		t.Errorf("after a Reset a write went to %s", got)
	}
	must(t, ordinary.Ready(ctx, 1, 1))
}

// dsnOf is a DSN of nodes of several clusters.
func dsnOf(nodes ...*pgcluster.Node) string {
	addrs := make([]string, len(nodes))
	for i, n := range nodes {
		addrs[i] = n.Addr()
	}
	return "postgres://postgres@" + strings.Join(addrs, ",") + "/postgres?sslmode=disable"
}

func TestForeignNodeIsNeverUsed(t *testing.T) {
	ctx := testContext(t)
	cluster, foreign := calmCluster(t), alien(t)
	nodes := cluster.Nodes()
	m := open(t, dsnOf(foreign, nodes[0], nodes[1], nodes[2]))
	must(t, m.Ready(ctx, 1, 2))
	m.awaitStatus(foreign, hasql.StatusForeign)
	routes := []*hasql.Route{m.Master(), m.Replica(), m.Default(), m.Replica(hasql.WithFallbackMaster(true)), m.Replica(hasql.WithMasterAsReplicaWeight(0.5))}
	for range 50 {
		for _, route := range routes {
			if got := servedBy(t, route); got == foreign.Addr() {
				t.Fatal("the foreign node was used")
			}
		}
	}
	if s := state(m.Snapshot(), foreign); s.Role != hasql.RoleUnknown || !strings.Contains(s.Cause.Error(), "system identifier") {
		t.Errorf("the foreign node: %v", s.String())
	}
	awaitBackends(t, foreign, 1) // the monitor's
	must(t, ctx.Err())
}

func TestSeveralMastersMayBeOfSeveralClusters(t *testing.T) {
	first, second := calmCluster(t).Nodes()[0], alien(t)
	m := open(t, dsnOf(first, second), func(c *hasql.Config) { c.MultiMaster = true })
	must(t, m.Ready(testContext(t), 2, 0))
	for _, n := range []*pgcluster.Node{first, second} {
		for servedBy(t, m.Master()) != n.Addr() {
		}
	}
}

func TestForeignNodeThatAnswersFirstIsNotUsed(t *testing.T) {
	ctx := testContext(t)
	cluster, foreign := calmCluster(t), alien(t)
	nodes := cluster.Nodes()
	heard := make(chan struct{}) // closed when the foreign node has answered, and more than one probe of it is done
	answers := 0
	m := open(t, dsnOf(foreign, nodes[0], nodes[1], nodes[2]), func(c *hasql.Config) {
		c.Checker = hasql.CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (hasql.Report, error) {
			if int(conn.Config().Port) != foreign.Port() {
				select {
				case <-heard:
				case <-ctx.Done():
					return hasql.Report{}, ctx.Err()
				}
			} else if answers++; answers == 3 {
				close(heard)
			}
			return hasql.StandardChecker{}.Check(ctx, conn)
		})
	})
	if got := servedBy(t, m.Master()); got != nodes[0].Addr() {
		t.Errorf("a write went to %s, the foreign node", got)
	}
	must(t, m.Ready(ctx, 1, 2))
}

// alien returns the master of another cluster. Clusters share the result of initdb, and with it the system identifier,
// unless they live in different temporary folders.
func alien(t testing.TB) *pgcluster.Node {
	t.Helper()
	calm := calmCluster(t)
	dir, err := os.MkdirTemp(filepath.Dir(calm.Dir()), "hasql-alien-")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	must(t, os.Chmod(dir, 0o711)) // the server may run under another account
	old, set := os.LookupEnv("TMPDIR")
	must(t, os.Setenv("TMPDIR", dir))
	cluster := startCluster(t, pgcluster.Options{})
	if set {
		must(t, os.Setenv("TMPDIR", old))
	} else {
		must(t, os.Unsetenv("TMPDIR"))
	}
	const identifier = "select system_identifier::text from pg_control_system()"
	n := cluster.Nodes()[0]
	if scan[string](t, connect(t, n), identifier) == scan[string](t, connect(t, calm.Nodes()[0]), identifier) {
		t.Fatal("the other cluster has the same system identifier, so this test shows nothing")
	}
	return n
}

// TestStandbyThatAsksForATimelineOfItsOwnSupersedesNobody has a replica that was promoted by mistake follow the master again,
// without pg_rewind. It asks for its own timeline over and over, which the master does not have.
func TestStandbyThatAsksForATimelineOfItsOwnSupersedesNobody(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master, mistaken := cluster.Nodes()[0], cluster.Nodes()[1]
	must(t, mistaken.Promote(ctx))
	execute(t, mistaken, "checkpoint")
	execute(t, mistaken, "alter system set wal_retrieve_retry_interval = '20ms'")
	must(t, mistaken.Stop(ctx, pgcluster.StopFast))
	must(t, mistaken.WriteFile("data/standby.signal", ""))
	must(t, mistaken.Follow(ctx, master))
	must(t, mistaken.Start(ctx))

	m := open(t, cluster.DSN(), func(c *hasql.Config) { c.CheckInterval, c.RecoveryInterval = 5*time.Millisecond, 5*time.Millisecond })
	m.awaitEvent("the master", 0, func(e event) bool { return e.master && e.new.Name == master.Addr() })
	from := m.mark()
	conn := connect(t, mistaken)
	for asked := 0; asked < 20; {
		asked += scan[int](t, conn, "select count(*) from pg_stat_wal_receiver where received_tli = 2")
		must(t, m.WaitNextCheck(ctx))
		if s := state(m.Snapshot(), master); s.Status != hasql.StatusUp {
			t.Fatalf("after %d times: %v", asked, s.String())
		}
	}
	m.undisturbed(from, mistaken)
}
