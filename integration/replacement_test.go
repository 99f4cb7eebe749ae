package integration

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// listed is a Discoverer that finds the nodes it was told to find.
type listed struct {
	nodes atomic.Pointer[[]*pgcluster.Node]
}

func (l *listed) set(nodes ...*pgcluster.Node) { l.nodes.Store(&nodes) }

func (l *listed) Discover(context.Context) (list []hasql.Endpoint, err error) {
	for _, n := range *l.nodes.Load() {
		addr := netip.MustParseAddrPort(n.Addr())
		list = append(list, hasql.Endpoint{Host: addr.Addr().String(), Port: addr.Port()})
	}
	return list, nil
}

// TestEveryNodeIsReplacedUnderLoad replaces the three nodes of the DSN one by one by three others, which are made meanwhile. In the
// middle the master loses power and one of the new nodes takes over. Nothing fails but what is in flight on that master.
func TestEveryNodeIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	ctx, cluster := testContext(t), startCluster(t, pgcluster.Options{Replicas: 5})
	nodes := cluster.Nodes()
	for _, n := range nodes[3:] {
		must(t, n.Stop(ctx, pgcluster.StopFast))
	}
	must(t, cluster.SetSynchronous(ctx, nodes[0], 1))
	d := new(listed)
	d.set(nodes[:3]...)
	m := open(t, cluster.DSN(), func(config *hasql.Config) {
		config.Nodes, config.Discoverer, config.DiscoveryInterval = config.Nodes[:3], d, 50*time.Millisecond
	})
	must(t, m.Ready(ctx, 1, 2))
	w, r := startWriters(t, m, 8), startReader(t, m)
	working := func() {
		t.Helper()
		w.progress(20)
		r.progress(20)
	}
	left := func(old *pgcluster.Node) {
		t.Helper()
		m.await(old.Addr()+" to leave", func(s *hasql.Snapshot) bool {
			_, known := s.Node(old.Addr())
			return !known
		})
	}
	// replace makes a replica on a new node, lists it in the place of an old one, and switches that off.
	replace := func(old, new, master *pgcluster.Node, list ...*pgcluster.Node) {
		t.Helper()
		working()
		must(t, new.Rebuild(ctx, master))
		began := time.Now()
		d.set(list...)
		awaitRead(t, m, m.Replica(), new)
		t.Logf("%s served its first read %v after it was listed", new.Addr(), time.Since(began).Round(time.Millisecond))
		left(old)
		if old.Running() {
			must(t, old.Stop(ctx, pgcluster.StopFast))
		}
		working()
	}
	replace(nodes[2], nodes[3], nodes[0], nodes[0], nodes[1], nodes[3])
	replace(nodes[1], nodes[4], nodes[0], nodes[0], nodes[3], nodes[4])

	must(t, nodes[0].Kill())
	ranked, err := pgcluster.Failover(ctx, nodes[3], nodes[4])
	must(t, err)
	m.awaitMaster(ranked[0])

	replace(nodes[0], nodes[5], ranked[0], nodes[3], nodes[4], nodes[5])

	must(t, m.Ready(ctx, 1, 2))
	var names []string
	for n := range m.Snapshot().Nodes() {
		names = append(names, n.Name)
	}
	if want := []string{nodes[3].Addr(), nodes[4].Addr(), nodes[5].Addr()}; !slices.Equal(names, want) {
		t.Errorf("the nodes are %v, not %v", names, want)
	}
	r.end()
	w.end(ranked[0], nodes[0])
	if len(w.failures) > len(w.acks) {
		t.Errorf("%d writes failed; %d can have been in flight", len(w.failures), len(w.acks))
	}
}
