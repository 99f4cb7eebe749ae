package integration

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
)

// proxied puts a proxy before every node and returns them with the DSN of all.
func proxied(t testing.TB, c *pgcluster.Cluster) (dsn string, proxies []*pgproxy.Proxy) {
	t.Helper()
	var addrs []string
	for _, n := range c.Nodes() {
		p, err := pgproxy.Listen(n.Addr())
		must(t, err)
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		proxies, addrs = append(proxies, p), append(addrs, p.Addr())
	}
	return "postgres://postgres@" + strings.Join(addrs, ",") + "/postgres?sslmode=disable", proxies
}

// soonDown makes silent nodes suspect and then down within a second.
func soonDown(c *hasql.Config) {
	c.CheckTimeout, c.DownTimeout = 300*time.Millisecond, 700*time.Millisecond
}

func TestNodeThatIsCutOffIsDownUntilTheNetworkIsBack(t *testing.T) {
	ctx := testContext(t)
	dsn, proxies := proxied(t, calmCluster(t))
	master := proxies[0]
	m := open(t, dsn, soonDown)
	must(t, m.Ready(ctx, 1, 2))
	for name, cut := range map[string]func() error{
		"both ways": master.Cut, "to the server": master.CutToServer, "to the client": master.CutToClient,
	} {
		running := hold(t, m)
		mark := m.mark()
		must(t, cut())
		m.awaitStatus(master, hasql.StatusDown)
		cutWith(t, <-running, master, hasql.StatusDown)
		waiting := make(chan error, 1)
		go func() { waiting <- m.Master().Ping(ctx) }()
		if _, err := m.AcquireMaster(canceled()); err == nil || !strings.Contains(err.Error(), master.Addr()+" down") {
			t.Errorf("%s: an acquire got %v", name, err)
		}
		must(t, m.Replica().Ping(ctx))
		must(t, master.Heal())
		must(t, <-waiting)
		must(t, m.Ready(ctx, 1, 2))
		suspect := func(e event) bool { return e.new.Name == master.Addr() && e.new.Status == hasql.StatusSuspect }
		m.awaitEvent(name+": suspicion", mark, suspect)
	}
	m.idle()
}

func TestNodeThatRefusesIsDownAtOnce(t *testing.T) {
	ctx := testContext(t)
	dsn, proxies := proxied(t, calmCluster(t))
	m := open(t, dsn)
	must(t, m.Ready(ctx, 1, 2))
	for range 3 {
		running := hold(t, m)
		must(t, proxies[0].Refuse())
		m.awaitStatus(proxies[0], hasql.StatusDown)
		if err := <-running; err == nil {
			t.Error("the statement was not ended")
		}
		waiting := make(chan error, 1)
		go func() { waiting <- m.Master().Ping(ctx) }()
		must(t, m.Replica().Ping(ctx))
		must(t, proxies[0].Heal())
		must(t, <-waiting)
	}
	m.idle()
}

func TestLostConnectionsAreNoDeadNode(t *testing.T) {
	ctx := testContext(t)
	dsn, proxies := proxied(t, calmCluster(t))
	m := open(t, dsn, maxConns(2))
	must(t, m.Ready(ctx, 1, 2))
	m.awaitEvent("the hooks", 0, func(e event) bool { return e.master })
	for _, p := range proxies {
		m.awaitEvent("the hooks", 0, func(e event) bool { return e.new.Name == p.Addr() })
	}
	mark := m.mark()
	for range 10 {
		fill(t, m, 2)()
		for _, p := range proxies {
			must(t, p.Reset())
		}
		for failures := 0; m.Master().Ping(ctx) != nil; failures++ {
			if failures > 2 {
				t.Fatal("more statements failed than there were connections")
			}
		}
		must(t, m.WaitNextCheck(ctx)) // the monitors are connected again: two losses in a row are another matter
	}
	m.undisturbed(mark)
	m.idle()
}

func TestMasterBehindACutIsFencedWhenTheNetworkIsBack(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	dsn, proxies := proxied(t, cluster)
	old, next := proxies[0], proxies[1]
	m := open(t, dsn, soonDown)
	must(t, m.Ready(ctx, 1, 1))
	must(t, m.Master().Ping(ctx))
	running := hold(t, m)
	must(t, old.Cut())
	must(t, cluster.Nodes()[1].Promote(ctx)) // the old master goes on beyond the cut
	m.awaitMaster(next)
	if _, ok := errors.AsType[*hasql.NodeDownError](<-running); !ok {
		t.Error("the statement on the old master was not cut")
	}
	must(t, old.Heal())
	m.awaitStatus(old, hasql.StatusStale)
	for range 100 {
		if got := servedBy(t, m.Master()); got != cluster.Nodes()[1].Addr() {
			t.Fatalf("a write went to %s", got)
		}
	}
	if _, err := m.AcquireReplica(canceled()); err == nil {
		t.Error("a read was served by a cluster without a replica")
	}
	must(t, cluster.Nodes()[0].Rejoin(ctx, cluster.Nodes()[1]))
	must(t, m.Ready(ctx, 1, 1))
}

func TestHundredsOfWaitersGetThroughACut(t *testing.T) {
	ctx := testContext(t)
	dsn, proxies := proxied(t, calmCluster(t))
	m := open(t, dsn, soonDown, maxConns(5))
	must(t, m.Ready(ctx, 1, 2))
	must(t, proxies[0].Cut())
	m.awaitStatus(proxies[0], hasql.StatusSuspect)
	wait := acquireMany(t, m, ctx, 300)
	m.awaitStatus(proxies[0], hasql.StatusDown)
	must(t, proxies[0].Heal())
	if got := wait(); len(got) != 1 || got[proxies[0].Addr()] != 300 {
		t.Errorf("connections came from %v", got)
	}
	m.idle()
}

func TestNearestReplicaIsPreferred(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	dsn, proxies := proxied(t, cluster)
	m := open(t, dsn+"&hasql_balancer=nearest&hasql_check_interval=1h") // latency is what it was when the test asked last
	must(t, m.Ready(ctx, 1, 2))
	for i := 1; i <= 2; i++ {
		far, near := proxies[i], cluster.Nodes()[3-i]
		must(t, far.Latency(150*time.Millisecond)) // more than a busy machine adds to the other one
		m.await("latency", func(s *hasql.Snapshot) bool {
			return state(s, far).Latency > 100*time.Millisecond && state(s, proxies[3-i]).Latency < 30*time.Millisecond
		})
		for servedBy(t, m.Replica()) != near.Addr() { // a dial that takes long on a busy machine is not waited for
			must(t, ctx.Err())
		}
		for range 20 {
			if got := servedBy(t, m.Replica()); got != near.Addr() {
				t.Fatalf("a read went to %s", got)
			}
		}
		must(t, far.Heal())
	}
}

func TestCloseWhileNodesAreCutOff(t *testing.T) {
	ctx := testContext(t)
	dsn, proxies := proxied(t, calmCluster(t))
	for _, timeouts := range []func(*hasql.Config){quickly, soonDown} {
		m := open(t, dsn, timeouts)
		must(t, m.Ready(ctx, 1, 2))
		must(t, m.Master().Ping(ctx))
		must(t, m.Replica().Ping(ctx))
		for _, p := range proxies {
			must(t, p.Cut())
		}
		m.await("silence to be noticed", func(s *hasql.Snapshot) bool { return s.MasterCount()+s.ReplicaCount() == 0 })
		if err := closeSoon(m); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, p := range proxies {
			must(t, p.Heal())
		}
	}
}
