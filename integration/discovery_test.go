package integration

import (
	"net"
	"slices"
	"strconv"
	"testing"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/discovery"
	"github.com/pghasql/hasql/integration/internal/patroni"
)

// TestDiscoveryByPatroni compares what the REST API of a real Patroni tells with its members: with all of them, after a power
// loss of the member that was asked, and after its return.
func TestDiscoveryByPatroni(t *testing.T) {
	needPatroniRuns(t)
	t.Parallel()
	ctx, cluster := testContext(t), startPatroni(t)
	old, err := cluster.Leader(ctx)
	must(t, err)
	names := func(members []*patroni.Member) (list []string) {
		for _, m := range members {
			list = append(list, m.Name())
		}
		return list
	}
	all := names(cluster.Members())
	others := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == old.Name() })
	d := discovery.Patroni(old.API()) // the others are found by asking
	d.Scope = "hasql"

	// until asks until the list has the given members. Patroni forgets a member when its time (ttl) is up.
	until := func(want []string) (list []hasql.Endpoint) {
		t.Helper()
		must(t, cluster.Poll(ctx, "members to be listed", func() bool {
			list, err = d.Discover(ctx)
			var got []string
			for _, e := range list {
				got = append(got, e.Name)
			}
			return err == nil && slices.Equal(got, want)
		}))
		return list
	}
	synchronous := 0
	for i, e := range until(all) {
		m := cluster.Members()[i]
		if got := net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))); got != m.Addr() {
			t.Errorf("%s is at %s, not at %s", e.Name, m.Addr(), got)
		}
		if e.Tags["sync_standby"] == "true" {
			synchronous++
		}
	}
	if synchronous != 1 {
		t.Errorf("%d synchronous standbys", synchronous)
	}

	must(t, old.Kill(ctx))
	until(others)
	must(t, old.Rejoin(ctx))
	until(all)
}
