package integration

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// TestDivergedReplicaIsLeftOutUntilItIsRewound promotes the standby that has less: what the other one has more, the new
// master never wrote.
func TestDivergedReplicaIsLeftOutUntilItIsRewound(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	old, next, diverged := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	m := openReady(t, cluster, func(c *hasql.Config) { c.FallbackMaster = true })
	_, err := m.Master().Exec(ctx, createWrites)
	must(t, err)
	must(t, next.WaitStreaming(ctx, old))
	_, err = next.Detach(ctx)
	must(t, err)
	_, err = m.Master().Exec(ctx, "insert into writes select generate_series(1, 100000)")
	must(t, err)
	must(t, diverged.WaitStreaming(ctx, old))
	must(t, old.Kill())
	_, err = diverged.Detach(ctx)
	must(t, err)
	must(t, next.Promote(ctx))
	m.awaitMaster(next)

	m.awaitStatus(diverged, hasql.StatusSuspect)
	s := state(m.Snapshot(), diverged)
	if !strings.Contains(s.Cause.Error(), "the master "+next.Addr()+" was only at") || !strings.Contains(s.Cause.Error(), "diverged") {
		t.Errorf("the replica: %v", s.String())
	}
	// A write of the new master's at a position that the replica has, with other data.
	_, err = m.Master().Exec(ctx, "insert into writes values (-1)")
	must(t, err)
	lsn := hasql.LSN(scan[int64](t, m.Master(), flushed))
	if lsn >= s.Report.LSN {
		t.Fatalf("the new master is at %v and the replica at %v, so this test shows nothing", lsn, s.Report.LSN)
	}
	routes := []*hasql.Route{m.Replica(), m.Replica(hasql.AtLeast(lsn)), m.Replica(hasql.WithMaxLag(time.Hour)), m.Default()}
	misled := func() {
		t.Helper()
		for range 20 {
			for _, route := range routes {
				if got := servedBy(t, route); got != next.Addr() {
					t.Fatalf("a read went to %s, which has diverged", got)
				}
			}
		}
	}
	misled()
	_, err = m.Master().Exec(ctx, "insert into writes select generate_series(200000, 500000)")
	must(t, err)
	m.await("a master that has more", func(v *hasql.Snapshot) bool { return state(v, next).Report.LSN > s.Report.LSN })
	misled()

	must(t, diverged.Rejoin(ctx, next))
	awaitRead(t, m, m.Replica(hasql.AtLeast(lsn)), diverged)
	if !scan[bool](t, m.Replica(hasql.WithFallbackMaster(false)), "select exists(select from writes where id = -1)") {
		t.Error("the replica lacks the write")
	}
}

// TestTrueReplicasAreNeverTakenForDiverged looks at the positions of a master and its replicas, one of them behind the
// other, while the master writes and switches segments, and is killed and restarted.
func TestTrueReplicasAreNeverTakenForDiverged(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	master, replica, cascade := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	must(t, cascade.Follow(ctx, replica))
	m := openReady(t, cluster, func(c *hasql.Config) { c.CheckInterval = 2 * time.Millisecond; c.RecoveryInterval = time.Millisecond })
	w := startWriters(t, m, 4)
	w.progress(5)
	from := m.mark()
	var switches atomic.Int64
	var switching sync.WaitGroup
	conn, stop := connect(t, master), make(chan struct{})
	switching.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := conn.Exec(ctx, "select pg_switch_wal()"); err != nil {
				t.Error(err)
				return
			}
			switches.Add(1)
		}
	})
	for probes := 0; !t.Failed() && (probes < 300 || switches.Load() < 10); probes++ {
		must(t, m.WaitNextCheck(ctx))
	}
	close(stop)
	switching.Wait()
	for range 3 {
		must(t, master.Kill())
		m.awaitStatus(master, hasql.StatusDown)
		must(t, master.Start(ctx))
		m.awaitMaster(master)
		w.progress(20)
	}
	w.end(master, master)
	events, _ := m.seen()
	for _, e := range events[from:] {
		if e.new.Name != master.Addr() && e.new.Cause != nil {
			t.Errorf("hook called: %v", e)
		}
	}
}

// TestReadsUnderALagLimitWithoutAMaster shows what is known and what is not: who has seen the master does not know what it
// wrote since, who has not seen it knows of nothing that the replica lacks.
func TestReadsUnderALagLimitWithoutAMaster(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	master, replica, behind := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	limited := func(c *hasql.Config) { c.MaxReplicaLag = laggard }
	before := openReady(t, cluster, limited)
	_, err := before.Master().Exec(ctx, createWrites)
	must(t, err)
	must(t, behind.WaitStreaming(ctx, master))
	pauseReplay(t, behind)
	_, err = before.Master().Exec(ctx, "insert into writes values (1)")
	must(t, err)
	must(t, replica.WaitStreaming(ctx, master))
	must(t, before.WaitNextCheck(ctx))
	must(t, before.WaitNextCheck(ctx))
	must(t, master.Kill())
	before.await("an old last word", func(s *hasql.Snapshot) bool {
		return state(s, replica).LagTime > laggard && state(s, behind).LagTime > laggard
	})
	var conn *pgxpool.Conn
	if conn, err = before.Replica().Acquire(canceled()); err == nil {
		conn.Release()
		t.Errorf("a replica was used that may be too old")
	}

	after := open(t, cluster.DSN(), limited)
	after.await("the replica that lacks something", func(s *hasql.Snapshot) bool { return state(s, behind).LagTime > laggard })
	for range 50 {
		if got := servedBy(t, after.Replica()); got != replica.Addr() {
			t.Fatalf("a read went to %s", got)
		}
	}
	if s := state(after.Snapshot(), replica); s.LagKnown || !strings.Contains(s.String(), "lag unknown") {
		t.Errorf("the replica of an unknown master: %v", s.String())
	}
	if got := servedBy(t, before.Replica(hasql.WithMaxLag(0))); got != replica.Addr() && got != behind.Addr() {
		t.Errorf("a read that minds no lag went to %s", got)
	}
	must(t, context.Cause(ctx))
}
