//go:build linux

package integration

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/integration/internal/netlab"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// net3 is a master and two replicas on hosts of their own, in a network where packets get lost, and a host for clients.
type net3 struct {
	*pgcluster.Cluster
	lab    *netlab.Lab
	client *netlab.Host
	host   map[*pgcluster.Node]*netlab.Host
}

func startNet(t testing.TB) *net3 {
	t.Helper()
	lab, err := netlab.New(4)
	if errors.Is(err, netlab.ErrUnavailable) {
		t.Skipf("skipped, as it takes root, ip and iptables: %v", err)
	}
	must(t, err)
	t.Cleanup(lab.Close)
	var hosts []pgcluster.Host
	for _, h := range lab.Hosts[:3] {
		hosts = append(hosts, pgcluster.Host{IP: h.IP, Do: h.Do})
	}
	n := &net3{
		Cluster: startCluster(t, pgcluster.Options{Replicas: 2, Hosts: hosts}),
		lab:     lab, client: lab.Hosts[3], host: make(map[*pgcluster.Node]*netlab.Host),
	}
	for i, node := range n.Nodes() {
		n.host[node] = lab.Hosts[i]
	}
	return n
}

// open makes a PoolManager on the clients' host that knows all nodes.
func (n *net3) open(t testing.TB, edits ...func(*hasql.Config)) *manager {
	t.Helper()
	return openReady(t, n, append(edits, func(c *hasql.Config) {
		for _, node := range c.Nodes {
			dial := node.Pool.ConnConfig.DialFunc
			node.Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
				n.client.Do(func() { conn, err = dial(ctx, network, addr) })
				return conn, err
			}
		}
	})...)
}

// apart cuts each host of one side off from each of the other, both ways.
func (n *net3) apart(t testing.TB, side []*netlab.Host, other ...*netlab.Host) {
	t.Helper()
	for _, a := range side {
		for _, b := range other {
			must(t, errors.Join(n.lab.Cut(a, b), n.lab.Cut(b, a)))
		}
	}
}

func TestLostPacketsAreKnownBySilence(t *testing.T) {
	cluster := startNet(t)
	ctx := testContext(t)
	master := cluster.Nodes()[0]
	host := cluster.host[master]
	m := cluster.open(t, soonDown)
	for name, cut := range map[string]func() error{
		"both ways": func() error {
			return errors.Join(cluster.lab.Cut(cluster.client, host), cluster.lab.Cut(host, cluster.client))
		},
		"to the server": func() error { return cluster.lab.Cut(cluster.client, host) },
		"to the client": func() error { return cluster.lab.Cut(host, cluster.client) },
	} {
		mark := m.mark()
		running := hold(t, m)
		must(t, cut())
		m.awaitStatus(master, hasql.StatusDown)
		m.awaitEvent(name+": suspicion", mark, func(e event) bool {
			return e.new.Name == master.Addr() && e.new.Status == hasql.StatusSuspect
		})
		cutWith(t, <-running, master, hasql.StatusDown)
		waiting := make(chan error, 1)
		go func() { waiting <- m.Master().Ping(ctx) }()
		must(t, m.Replica().Ping(ctx))
		must(t, cluster.lab.Heal())
		if err := <-waiting; err != nil {
			t.Errorf("%s: a write after the partition: %v", name, err)
		}
		must(t, m.Ready(ctx, 1, 2))
	}
	m.idle()
}

// TestRefusedPacketsAreKnownAtOnce has no timeout that could find the node dead.
func TestRefusedPacketsAreKnownAtOnce(t *testing.T) {
	cluster := startNet(t)
	ctx := testContext(t)
	master := cluster.Nodes()[0]
	m := cluster.open(t)
	for range 3 {
		mark := m.mark()
		must(t, cluster.lab.Refuse(cluster.client, cluster.host[master]))
		m.awaitStatus(master, hasql.StatusDown)
		down := m.awaitEvent("the master's fall", mark, func(e event) bool { return e.new.Name == master.Addr() })
		if text := down.new.Cause.Error(); !strings.Contains(text, "refused") && !strings.Contains(text, "reset") {
			t.Errorf("the master is down because of %q", text)
		}
		must(t, m.Replica().Ping(ctx))
		must(t, cluster.lab.Heal())
		must(t, m.Master().Ping(ctx))
		must(t, m.Ready(ctx, 1, 2))
	}
	m.idle()
}

func TestMasterCutOffFromEverybodyIsFencedWhenItIsBack(t *testing.T) {
	cluster := startNet(t)
	ctx := testContext(t)
	old, next, other := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	must(t, cluster.SetSynchronous(ctx, old, 1))
	m := cluster.open(t, soonDown)
	w := startWriters(t, m, 4)
	w.progress(10)
	cluster.apart(t, []*netlab.Host{cluster.host[old]}, cluster.client, cluster.host[next], cluster.host[other])
	next, _ = failOver(t, next, other)
	w.progress(10)
	must(t, cluster.lab.Heal())
	m.awaitStatus(old, hasql.StatusStale)
	w.progress(10)
	must(t, old.Rejoin(ctx, next))
	must(t, m.Ready(ctx, 1, 2))
	awaitRead(t, m, m.Replica(), old)
	w.end(next, old)
}

// TestMasterCutOffFromItsReplicasIsSuperseded is a partition that clients are on both sides of.
func TestMasterCutOffFromItsReplicasIsSuperseded(t *testing.T) {
	cluster := startNet(t)
	ctx := testContext(t)
	old, next, other := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	must(t, cluster.SetSynchronous(ctx, old, 1))
	m := cluster.open(t)
	w := startWriters(t, m, 4)
	w.progress(10)
	mark := m.mark()
	cluster.apart(t, []*netlab.Host{cluster.host[old]}, cluster.host[next], cluster.host[other])
	m.undisturbed(mark) // clients reach every node, and nobody knows better than the master yet
	next, _ = failOver(t, next, other)
	m.awaitStatus(old, hasql.StatusStale)
	w.progress(10)
	must(t, cluster.lab.Heal())
	must(t, old.Rejoin(ctx, next))
	must(t, m.Ready(ctx, 1, 2))
	w.end(next, old)
}

// TestReplicaThatHearsNothingFromTheMasterIsTooFarBehind is a partition in one direction: the replica still talks.
func TestReplicaThatHearsNothingFromTheMasterIsTooFarBehind(t *testing.T) {
	cluster := startNet(t)
	ctx := testContext(t)
	master, deaf, well := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	m := cluster.open(t)
	w := startWriters(t, m, 2)
	must(t, cluster.lab.Cut(cluster.host[master], cluster.host[deaf]))
	const tolerable = 200 * time.Millisecond
	m.await(deaf.Name()+" to be behind", func(s *hasql.Snapshot) bool {
		w.progress(1)
		return state(s, deaf).LagTime > tolerable && state(s, well).LagTime < tolerable
	})
	fresh := m.Replica(hasql.WithMaxLag(tolerable))
	if conn, err := fresh.Acquire(ctx); err != nil || nodeOf(conn) == deaf.Addr() {
		t.Errorf("a fresh read went to %s or failed: %v", deaf.Name(), err)
	} else {
		conn.Release()
	}
	if got := state(m.Snapshot(), deaf); got.Status != hasql.StatusUp {
		t.Errorf("the replica is not up: %v", got.String())
	}
	must(t, cluster.lab.Heal())
	w.progress(1)
	awaitRead(t, m, fresh, deaf)
	w.end(master)
}

// TestMinorityOfAPartitionTrustsNoMaster has the client on the old master's side of a partition: it cannot see the new one.
func TestMinorityOfAPartitionTrustsNoMaster(t *testing.T) {
	cluster := startNet(t)
	ctx := testContext(t)
	old, next, other := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	wary := cluster.open(t, soonDown, func(c *hasql.Config) { c.RequireMajority = true })
	trusting := cluster.open(t, soonDown)
	cluster.apart(t, []*netlab.Host{cluster.client, cluster.host[old]}, cluster.host[next], cluster.host[other])
	for _, m := range []*manager{wary, trusting} {
		m.awaitStatus(next, hasql.StatusDown)
		m.awaitStatus(other, hasql.StatusDown)
	}
	next, _ = failOver(t, next, other)

	if _, err := wary.AcquireMaster(canceled()); err == nil || !strings.Contains(err.Error(), "only 1 of 3 nodes answer") {
		t.Errorf("in the minority, with RequireMajority, an acquire got: %v", err)
	}
	if got := servedBy(t, trusting.Master()); got != old.Addr() { // nobody on this side can know better
		t.Errorf("in the minority a write went to %s", got)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- wary.Master().Ping(ctx) }()
	must(t, cluster.lab.Heal())
	must(t, <-waiting)
	for _, m := range []*manager{wary, trusting} {
		m.awaitMaster(next)
		m.awaitStatus(old, hasql.StatusStale)
		if got := servedBy(t, m.Master()); got != next.Addr() {
			t.Errorf("after the partition a write went to %s", got)
		}
	}
}
