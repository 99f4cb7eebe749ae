package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func TestWorkGoesToTheNodesOfItsRole(t *testing.T) {
	cluster := calmCluster(t)
	m := openReady(t, cluster)
	nodes := cluster.Nodes()
	reads := make(map[string]int)
	for range 100 {
		if got := servedBy(t, m.Master()); got != nodes[0].Addr() {
			t.Fatalf("a write went to %s", got)
		}
		reads[servedBy(t, m.Replica())]++
		for _, readOnly := range []bool{false, true} {
			conn, err := m.Acquire(testContext(t), readOnly)
			must(t, err)
			if got := scan[string](t, conn, "show transaction_read_only"); got != map[bool]string{false: "off", true: "on"}[readOnly] {
				t.Fatalf("Acquire(%v) gave a session with transaction_read_only %s", readOnly, got)
			}
			conn.Release()
		}
	}
	if len(reads) != 2 || reads[nodes[0].Addr()] > 0 {
		t.Errorf("reads went to %v", reads)
	}
	m.idle()
}

func TestTargetSessionAttrsMakesTheDefaultRoute(t *testing.T) {
	cluster := calmCluster(t)
	for attrs, inRecovery := range map[string]bool{"read-write": false, "primary": false, "standby": true, "prefer-standby": true} {
		m := open(t, cluster.DSN()+"&target_session_attrs="+attrs)
		must(t, m.Ready(testContext(t), 1, 2))
		for range 10 {
			if got := scan[bool](t, m.Default(), "select pg_is_in_recovery()"); got != inRecovery {
				t.Errorf("%s: in recovery: %v", attrs, got)
			}
		}
	}
}

// TestFailover ends the master in different ways under the load of writers, promotes a replica, and brings the old
// master back.
func TestFailover(t *testing.T) {
	for name, end := range map[string]func(context.Context, *pgcluster.Node) error{
		"kill -9":        func(_ context.Context, n *pgcluster.Node) error { return n.Kill() },
		"fast stop":      func(ctx context.Context, n *pgcluster.Node) error { return n.Stop(ctx, pgcluster.StopFast) },
		"immediate stop": func(ctx context.Context, n *pgcluster.Node) error { return n.Stop(ctx, pgcluster.StopImmediate) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 2})
			old := cluster.Nodes()[0]
			must(t, cluster.SetSynchronous(ctx, old, 1))
			m := openReady(t, cluster)
			w := startWriters(t, m, 8)
			w.progress(20)

			must(t, end(ctx, old))
			next, _ := failOver(t, cluster.Nodes()[1], cluster.Nodes()[2])
			w.progress(20)
			m.awaitMaster(next)
			if lost, ok := errors.AsType[*hasql.NoNodeError](m.Ready(canceled(), 1, 2)); !ok || !strings.Contains(lost.Error(), old.Addr()+" down") {
				t.Errorf("the old master is not down: %v", lost)
			}

			must(t, old.Rejoin(ctx, next))
			must(t, m.Ready(ctx, 1, 2))
			awaitRead(t, m, m.Replica(), old)
			w.progress(20)
			w.end(next, old)

			e := m.awaitEvent("the new master", 0, func(e event) bool { return e.master && e.new.Name == next.Addr() })
			if e.old.Name != old.Addr() || e.gap <= 0 {
				t.Errorf("MasterChanged(%q, %q, %v)", e.old.Name, e.new.Name, e.gap)
			}
		})
	}
}

// failOver takes two replicas from their master, wherever that is, promotes the one that has more WAL and makes the other
// one follow it. With synchronous replication to any one replica the new master has every acknowledged write.
func failOver(t testing.TB, a, b *pgcluster.Node) (next, other *pgcluster.Node) {
	t.Helper()
	ranked, err := pgcluster.Failover(testContext(t), a, b)
	must(t, err)
	return ranked[0], ranked[1]
}

// canceled returns a context that has ended, to ask for the present alone.
func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestSwitchoverThereAndBackLosesNothing(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster)
	w := startWriters(t, m, 4)
	for range 2 {
		w.progress(20)
		must(t, a.Stop(ctx, pgcluster.StopFast))
		must(t, b.Promote(ctx))
		w.progress(20)
		must(t, a.Rejoin(ctx, b))
		must(t, m.Ready(ctx, 1, 1))
		if got := servedBy(t, m.Replica()); got != a.Addr() {
			t.Errorf("a read went to %s", got)
		}
		a, b = b, a
	}
	w.end(a, a, b)
}

// Each write has a key of its own, so that one that took effect before it was sent back and repeated would fail.
func TestStatementsOnARouteGetThroughASwitchover(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster)
	_, err := m.Master().Exec(ctx, createWrites)
	must(t, err)
	var next, reads atomic.Int64
	var acked sync.Map
	writes := map[string]func(id int64) error{
		"Exec": func(id int64) error {
			_, err := m.Master().Exec(ctx, "insert into writes values ($1)", id)
			return err
		},
		"simple Exec": func(id int64) error {
			_, err := m.Master().Exec(ctx, fmt.Sprintf("insert into writes values (%d)", id))
			return err
		},
		"QueryRow": func(id int64) error {
			return m.Master().QueryRow(ctx, "insert into writes values ($1) returning id", id).Scan(&id)
		},
		"Query": func(id int64) error {
			rows, _ := m.Master().Query(ctx, "insert into writes values ($1) returning id", id)
			_, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
			return err
		},
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for name, write := range writes {
		clients.Go(func() {
			for running(stop) {
				id := next.Add(1)
				if err := write(id); err != nil {
					t.Errorf("%s: %v", name, err)
				} else {
					acked.Store(id, nil)
				}
			}
		})
	}
	clients.Go(func() {
		for running(stop) {
			var n int
			if err := m.Replica().QueryRow(ctx, "select count(*) from pg_class").Scan(&n); err != nil {
				t.Errorf("a read: %v", err)
			}
			reads.Add(1)
		}
	})
	progress := func() {
		for goal, read := next.Load()+100, reads.Load()+20; next.Load() < goal || reads.Load() < read; {
			must(t, m.WaitNextCheck(ctx))
		}
	}
	for range 2 {
		progress()
		must(t, a.Stop(ctx, pgcluster.StopFast))
		must(t, b.Promote(ctx))
		must(t, a.Rejoin(ctx, b))
		must(t, m.Ready(ctx, 1, 1))
		a, b = b, a
	}
	progress()
	close(stop)
	clients.Wait()
	var all []int64
	for id := range acked.Range {
		all = append(all, id.(int64))
	}
	if lost := scan[int](t, connect(t, a), "select count(*) from unnest($1::bigint[]) as id where id not in (select id from writes)", all); lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(all))
	}
	m.idle()
}

func running(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		return true
	}
}

func TestStatementWhoseSessionIsTerminatedIsNotRepeated(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	m := openReady(t, cluster)
	var pid int
	err := m.Master().QueryRow(ctx, "select pg_backend_pid() from pg_terminate_backend(pg_backend_pid())").Scan(&pid)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "57P01" {
		t.Errorf("error %v", err)
	}
	m.idle()
}

func TestReplicaComesAndGoesWithoutDisturbingTheMaster(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master, replica := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster)
	w := startWriters(t, m, 4)
	for name, end := range map[string]func() error{
		"kill":      replica.Kill,
		"fast stop": func() error { return replica.Stop(ctx, pgcluster.StopFast) },
	} {
		awaitRead(t, m, m.Replica(), replica)
		must(t, end())
		m.awaitStatus(replica, hasql.StatusDown)

		_, err := m.AcquireReplica(canceled())
		lost, ok := errors.AsType[*hasql.NoNodeError](err)
		if !ok || !errors.Is(err, context.Canceled) || !strings.Contains(lost.Error(), replica.Addr()+" down") {
			t.Errorf("%s: AcquireReplica: %v", name, err)
		}
		if got := servedBy(t, m.Replica(hasql.WithFallbackMaster(true))); got != master.Addr() {
			t.Errorf("%s: a read went to %s, not to the master", name, got)
		}

		read := make(chan error, 1)
		go func() { // waits for the replica
			_, err := m.Replica().Exec(ctx, "select 1")
			read <- err
		}()
		w.progress(5)
		must(t, replica.Start(ctx))
		must(t, <-read)
	}
	w.progress(5)
	w.end(master)
	for events, _ := m.seen(); len(events) > 0; events = events[1:] {
		if e := events[0]; e.new.Name == master.Addr() && e.old.Status == hasql.StatusUp || e.master && e.old.Name != "" {
			t.Errorf("the master was disturbed: %v", e)
		}
	}
}

func TestRestartOfTheMasterIsWaitedFor(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master := cluster.Nodes()[0]
	m := openReady(t, cluster)
	w := startWriters(t, m, 4)
	for range 3 {
		w.progress(10)
		must(t, master.Stop(ctx, pgcluster.StopFast))
		must(t, master.Start(ctx))
	}
	w.progress(10)
	w.end(master, master)
}

func TestCrashOfABackendIsWaitedFor(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master := cluster.Nodes()[0]
	m := openReady(t, cluster)
	w := startWriters(t, m, 4)
	for range 3 {
		w.progress(10)
		victim, witness := connect(t, master), connect(t, master)
		must(t, master.KillBackend(int(victim.PgConn().PID())))
		for witness.PgConn().WaitForNotification(ctx) == nil { // until the server ends every session
		}
		must(t, ctx.Err())
		for {
			conn, err := master.Conn(ctx)
			if err == nil {
				must(t, conn.Close(ctx))
				break
			}
			must(t, ctx.Err()) // it recovers
		}
	}
	w.progress(10)
	w.end(master, master)
}

func TestPromotionIsNoticedWithoutAnyTraffic(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster)
	must(t, a.Kill())
	m.awaitStatus(a, hasql.StatusDown)
	must(t, b.Promote(ctx))
	m.awaitMaster(b)
}

func TestPromotionIsNoticedThoughProbesAreRare(t *testing.T) {
	// The end of the master's connection alone starts the search for another.
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, rarely)
	must(t, a.Kill())
	must(t, b.Promote(ctx))
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	if got := nodeOf(conn); got != b.Addr() {
		t.Errorf("the master is %s", got)
	}
	conn.Release()
}

// rarely makes probes of healthy nodes so rare that a test sees none but those that something asks for.
func rarely(c *hasql.Config) { c.CheckInterval = never }

const setReadOnly, resetReadOnly = "alter system set default_transaction_read_only = on",
	"set default_transaction_read_only = off; alter system reset default_transaction_read_only"

func TestMasterSetReadOnlyGetsNoWrites(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	master := cluster.Nodes()[0]
	m := openReady(t, cluster)
	admin := connect(t, master)
	_, err := m.Master().Exec(ctx, createWrites)
	must(t, err)
	for range 2 {
		reconfigure(t, admin, setReadOnly)
		m.await("no master", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
		if _, err := m.AcquireMaster(canceled()); !errors.Is(err, context.Canceled) {
			t.Errorf("AcquireMaster: %v", err)
		}
		if got := servedBy(t, m.Replica()); got != master.Addr() {
			t.Errorf("a read went to %s", got)
		}
		reconfigure(t, admin, resetReadOnly)
		if _, err := m.Master().Exec(ctx, "delete from writes"); err != nil {
			t.Errorf("a write after the master was writable again: %v", err)
		}
	}
}

func TestRefusedWriteIsNewsOfAReadOnlyMaster(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	m := openReady(t, cluster, rarely)
	_, err := m.Master().Exec(ctx, createWrites)
	must(t, err)
	conn, err := m.AcquireMaster(ctx) // and not released, which would be news too
	must(t, err)
	defer conn.Release()
	reconfigure(t, connect(t, cluster.Nodes()[0]), setReadOnly)
	for { // the pool's session obeys a moment later than the one that asked for it
		_, err := conn.Exec(ctx, "delete from writes")
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "25006" {
			break
		}
		must(t, err)
	}
	m.await("no master", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
}

func TestPromotionIsNoticedByTraffic(t *testing.T) {
	// in_hot_standby comes with the answer to any statement, so busy clients need not wait for the next probe.
	if scan[int](t, connect(t, calmCluster(t).Nodes()[0]), "select current_setting('server_version_num')::int") < 140000 {
		t.Skip("PostgreSQL reports in_hot_standby since version 14")
	}
	for name, read := range map[string]func(*manager) *hasql.Route{
		"to replicas":                     func(m *manager) *hasql.Route { return m.Replica() },
		"to any node":                     func(m *manager) *hasql.Route { return m.Default() },
		"to replicas, else to the master": func(m *manager) *hasql.Route { return m.Default() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 1})
			a, b := cluster.Nodes()[0], cluster.Nodes()[1]
			m := openReady(t, cluster, rarely, func(c *hasql.Config) {
				c.Picker = hasql.Random() // also if one node took long to answer the only probe that there was
				if strings.Contains(name, "else") {
					c.Target = hasql.TargetPreferReplica
				}
			})
			must(t, m.Replica().Ping(ctx))
			must(t, m.Master().Ping(ctx))
			must(t, m.Master().Ping(ctx))
			must(t, b.Promote(ctx)) // a goes on, and is stale now
			noticed := func() bool { return m.Snapshot().MasterCount() == 1 && state(m.Snapshot(), b).Role == hasql.RoleMaster }
			for i := 0; i < 1000 && !noticed(); i++ {
				if _, err := read(m).Exec(ctx, "select 1"); err != nil && !noticed() {
					t.Fatal(err)
				}
			}
			m.awaitMaster(b)
			if state(m.Snapshot(), a).Role == hasql.RoleMaster {
				t.Error("there are two masters")
			}
		})
	}
}

func TestSilenceUnderTrafficIsNoticedThoughProbesAreRare(t *testing.T) {
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, rarely, quickly)
	conn, err := m.AcquireMaster(testContext(t))
	must(t, err)
	freeze(t, old)
	hanging := run(t, conn, "select 1")
	m.awaitStatus(old, hasql.StatusSuspect)
	must(t, next.Promote(testContext(t)))
	m.awaitMaster(next)
	if _, ok := errors.AsType[*hasql.NodeDownError](<-hanging); !ok {
		t.Error("the statement on the old master was not cut")
	}
}

func TestMinorityTrustsNoMasterIfAMajorityIsRequired(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	nodes := cluster.Nodes()
	m := open(t, cluster.DSN()+"&hasql_require_majority=true")
	must(t, m.Ready(ctx, 1, 2))
	must(t, nodes[1].Kill())
	m.awaitStatus(nodes[1], hasql.StatusDown)
	must(t, m.Master().Ping(ctx))
	must(t, nodes[2].Kill())
	m.await("no master", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
	if _, err := m.AcquireMaster(canceled()); !errors.Is(err, context.Canceled) {
		t.Errorf("AcquireMaster of a minority: %v", err)
	}
	write := make(chan error, 1)
	go func() { write <- m.Master().Ping(ctx) }()
	must(t, nodes[1].Start(ctx))
	must(t, <-write)
}

// reconfigure runs statements of which ALTER SYSTEM must be alone, and returns once the session itself goes by the
// new configuration.
func reconfigure(t testing.TB, admin *pgx.Conn, sql string) {
	t.Helper()
	ctx := testContext(t)
	for statement := range strings.SplitSeq(sql, ";") {
		if _, err := admin.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	before := scan[string](t, admin, "select pg_conf_load_time()::text")
	if _, err := admin.Exec(ctx, "select pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
	for scan[string](t, admin, "select pg_conf_load_time()::text") == before {
	}
}
