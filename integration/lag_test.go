package integration

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// pauseReplay stops a standby's replay until the test ends or resume is called.
func pauseReplay(t testing.TB, n *pgcluster.Node) (resume func()) {
	t.Helper()
	conn := connect(t, n)
	_, err := conn.Exec(testContext(t), "select pg_wal_replay_pause()")
	must(t, err)
	paused := "select pg_get_wal_replay_pause_state() = 'paused'"
	if strings.HasPrefix(conn.PgConn().ParameterStatus("server_version"), "13.") {
		paused = "select pg_is_wal_replay_paused()" // asked to, which is all that 13 tells
	}
	for !scan[bool](t, conn, paused) {
	}
	resume = func() {
		if _, err := conn.Exec(context.Background(), "select pg_wal_replay_resume()"); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(resume)
	return resume
}

const laggard = 400 * time.Millisecond

func TestReplicaThatFallsBehindABusyMasterIsLeftOut(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	fresh, behind := cluster.Nodes()[1], cluster.Nodes()[2]
	m := openReady(t, cluster, func(c *hasql.Config) { c.MaxReplicaLag = laggard })
	w := startWriters(t, m, 1)
	w.progress(5)
	awaitRead(t, m, m.Replica(), behind)
	resume := pauseReplay(t, behind)
	m.await("lag", func(s *hasql.Snapshot) bool { return state(s, behind).LagTime > laggard })
	for range 100 {
		if got := servedBy(t, m.Replica()); got != fresh.Addr() {
			t.Fatalf("a read went to %s", got)
		}
	}
	awaitRead(t, m, m.Replica(hasql.WithMaxLag(0)), behind)
	if s := state(m.Snapshot(), behind); !s.LagKnown || s.LagBytes == 0 || s.Status != hasql.StatusUp {
		t.Errorf("the replica: %v", s.String())
	}
	if s := state(m.Snapshot(), fresh); !s.LagKnown || s.LagTime > laggard {
		t.Errorf("the fresh replica: %v", s.String())
	}
	resume()
	awaitRead(t, m, m.Replica(), behind)
	w.end(cluster.Nodes()[0])
	must(t, ctx.Err())
}

func TestReplicaThatIsCutOffFromABusyMasterIsLeftOut(t *testing.T) {
	// By its own word it lacks nothing: it has replayed all that it got.
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master, behind := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, func(c *hasql.Config) { c.MaxReplicaLag = laggard; c.FallbackMaster = true })
	w := startWriters(t, m, 1)
	w.progress(5)
	reconfigure(t, connect(t, behind), "alter system set primary_conninfo = ''")
	m.await("lag", func(s *hasql.Snapshot) bool { return state(s, behind).LagTime > laggard })
	for range 50 {
		if got := servedBy(t, m.Replica()); got != master.Addr() {
			t.Fatalf("a read went to %s", got)
		}
	}
	if s := state(m.Snapshot(), behind); !s.LagKnown || s.LagBytes == 0 {
		t.Errorf("the replica: %v", s.String())
	}
	reconfigure(t, connect(t, behind), "alter system reset primary_conninfo")
	awaitRead(t, m, m.Replica(), behind)
	w.end(master)
}

func TestReplicaOfAnIdleMasterIsNotBehind(t *testing.T) {
	// The age of the last transaction grows, the distance to the master does not.
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	master, paused, replica := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	m := openReady(t, cluster, func(c *hasql.Config) { c.MaxReplicaLag = laggard })
	_, err := m.Master().Exec(ctx, createWrites)
	must(t, err)
	must(t, paused.WaitStreaming(ctx, master))
	must(t, replica.WaitStreaming(ctx, master))
	pauseReplay(t, paused)
	m.await("an old last transaction", func(s *hasql.Snapshot) bool {
		return state(s, replica).Report.ReplayDelay > 2*laggard && state(s, paused).Report.ReplayDelay > 2*laggard
	})
	must(t, m.WaitNextCheck(ctx))
	s := m.Snapshot()
	if n := state(s, replica); !n.LagKnown || n.LagTime > laggard {
		t.Errorf("a replica of an idle master: %v behind", n.LagTime)
	}
	// The server itself may write a little in between, which the paused one lacks then.
	if n := state(s, paused); n.LagBytes == 0 && (n.LagTime != 0 || !n.LagKnown) {
		t.Errorf("a paused replica that lacks nothing: %v behind", n.LagTime)
	}
	awaitRead(t, m, m.Replica(), replica)
}

func TestReplicaThatLacksTheLastWriteOfAnIdleMasterIsBehind(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	behind := cluster.Nodes()[1]
	m := openReady(t, cluster)
	_, err := m.Master().Exec(ctx, createWrites)
	must(t, err)
	pauseReplay(t, behind)
	_, err = m.Master().Exec(ctx, "insert into writes values (1)")
	must(t, err)
	m.await("lag", func(s *hasql.Snapshot) bool { n := state(s, behind); return n.LagTime > laggard && n.LagBytes > 0 })
}

const flushed = "select (pg_current_wal_flush_lsn() - '0/0')::bigint"

// inserted is the position of a commit that is not flushed yet.
func inserted(t *testing.T, q queryer) hasql.LSN {
	lsn := hasql.LSN(scan[int64](t, q, "select (pg_current_wal_insert_lsn() - '0/0')::bigint"))
	switch {
	case lsn%(16<<20) == 40:
		lsn -= 40
	case lsn%8192 == 24:
		lsn -= 24
	}
	return lsn
}

func TestReadAtLeastSeesTheWrite(t *testing.T) {
	for _, test := range []struct {
		synchronous string
		writes      int
		position    func(*testing.T, queryer) hasql.LSN
	}{
		{"on", 200, func(t *testing.T, q queryer) hasql.LSN { return hasql.LSN(scan[int64](t, q, flushed)) }},
		{"off", 20, inserted}, // each takes as long as the server keeps its WAL to itself
	} {
		t.Run("synchronous_commit="+test.synchronous, func(t *testing.T) {
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 2})
			m := openReady(t, cluster)
			_, err := m.Master().Exec(ctx, createWrites)
			must(t, err)
			for i := range test.writes {
				conn, err := m.AcquireMaster(ctx)
				must(t, err)
				_, err = conn.Exec(ctx, "set synchronous_commit = "+test.synchronous)
				must(t, err)
				_, err = conn.Exec(ctx, "insert into writes values ($1)", i)
				must(t, err)
				lsn := test.position(t, conn)
				conn.Release()
				read, err := m.Replica(hasql.AtLeast(lsn)).Acquire(ctx)
				must(t, err)
				if !scan[bool](t, read, "select pg_is_in_recovery()") {
					t.Fatal("the read went to the master")
				}
				if !scan[bool](t, read, "select exists(select from writes where id = $1)", i) {
					t.Fatalf("write %d, at %v, is not seen on %s", i, lsn, nodeOf(read))
				}
				read.Release()
			}
			m.idle()
		})
	}
}

func TestReadAtLeastWaitsOrFallsBack(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master, replica := cluster.Nodes()[0], cluster.Nodes()[1]
	m := openReady(t, cluster, rarely)
	_, err := m.Master().Exec(ctx, createWrites)
	must(t, err)
	resume := pauseReplay(t, replica)
	_, err = m.Master().Exec(ctx, "insert into writes values (1)")
	must(t, err)
	lsn := hasql.LSN(scan[int64](t, m.Master(), flushed))
	must(t, m.WaitNextCheck(ctx))

	if got := servedBy(t, m.Replica(hasql.AtLeast(lsn), hasql.WithFallbackMaster(true))); got != master.Addr() {
		t.Errorf("a read that may fall back went to %s", got)
	}
	if got := servedBy(t, m.Replica()); got != replica.Addr() {
		t.Errorf("a read without conditions went to %s", got)
	}
	_, err = m.Replica(hasql.AtLeast(lsn)).Acquire(canceled())
	if _, ok := errors.AsType[*hasql.NoNodeError](err); !ok {
		t.Errorf("a read that must wait: %v", err)
	}
	seen := make(chan error, 1)
	go func() {
		var there bool
		err := m.Replica(hasql.AtLeast(lsn)).QueryRow(ctx, "select exists(select from writes)").Scan(&there)
		if err == nil && !there {
			err = pgx.ErrNoRows
		}
		seen <- err
	}()
	must(t, m.WaitNextCheck(ctx))
	resume()
	must(t, <-seen)
	m.idle()
}

func TestShareOfReadsThatTheMasterTakes(t *testing.T) {
	cluster := calmCluster(t)
	master := cluster.Nodes()[0].Addr()
	m := openReady(t, cluster, func(c *hasql.Config) { c.MasterAsReplicaWeight = 0.5 })
	for want, route := range map[float64]*hasql.Route{
		0: m.Replica(hasql.WithMasterAsReplicaWeight(0)), 0.5: m.Replica(), 1: m.Replica(hasql.WithMasterAsReplicaWeight(1)),
	} {
		served := 0
		for range 400 {
			conn, err := route.Acquire(testContext(t))
			must(t, err)
			if nodeOf(conn) == master {
				served++
			}
			conn.Release()
		}
		// Six standard deviations to either side.
		if got := float64(served) / 400; got < want-0.15 || got > want+0.15 || want != 0.5 && got != want {
			t.Errorf("with weight %v the master served %v of the reads", want, got)
		}
	}
}

func TestZoneIsPreferredWhileItLasts(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	near, far := cluster.Nodes()[1], cluster.Nodes()[2]
	m := open(t, cluster.DSN()+"&hasql_zones=a,b,c&hasql_balancer=round_robin")
	must(t, m.Ready(ctx, 1, 2))
	route := m.Replica(hasql.WithZone("b"))
	for range 50 {
		if got := servedBy(t, route); got != near.Addr() {
			t.Fatalf("a read went to %s", got)
		}
	}
	if got := servedBy(t, m.Master(hasql.WithZone("b"))); got != cluster.Nodes()[0].Addr() {
		t.Errorf("a write went to %s", got)
	}
	must(t, near.Kill())
	m.awaitStatus(near, hasql.StatusDown)
	for range 50 {
		if got := servedBy(t, route); got != far.Addr() {
			t.Fatalf("a read went to %s", got)
		}
	}
	must(t, near.Start(ctx))
	awaitRead(t, m, route, near)
}

func TestEveryBalancerUsesEveryReplica(t *testing.T) {
	cluster := calmCluster(t)
	for _, balancer := range []string{"least_loaded", "greedy", "round_robin", "random", "random_weighted"} {
		m := open(t, cluster.DSN()+"&hasql_balancer="+balancer)
		must(t, m.Ready(testContext(t), 1, 2))
		for _, n := range cluster.Nodes()[1:] {
			awaitRead(t, m, m.Replica(), n)
		}
	}
	m := open(t, cluster.DSN()+"&hasql_balancer=nearest")
	must(t, m.Ready(testContext(t), 1, 2))
	must(t, m.Replica().Ping(testContext(t)))
}
