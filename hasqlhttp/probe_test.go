package hasqlhttp

import (
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/pgfake"
)

func TestReadyFollowsTheCluster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, n := range c.Nodes() {
			n.Freeze()
		}
		pm := open(t, c, c.DSN())
		expect := func(when string, masters, replicas, status int, lines ...string) {
			t.Helper()
			answer := get(Ready(pm, masters, replicas), "/readyz")
			if answer.Code != status {
				t.Errorf("%s: Ready(%d, %d) answers %d: %s", when, masters, replicas, answer.Code, answer.Body)
			}
			for _, line := range lines {
				if !strings.Contains(answer.Body.String(), line+"\n") {
					t.Errorf("%s: no line %q in %s", when, line, answer.Body)
				}
			}
		}
		expect("before the first answer", 1, 0, 503, "pg1:5432 suspect unknown: not probed yet")
		expect("before the first answer", 0, 0, 200)
		for _, n := range c.Nodes() {
			n.Thaw()
		}
		ready(t, pm)
		expect("with all nodes", 1, 2, 200, "ready")
		expect("with all nodes", -1, -1, 200, "ready")
		expect("with all nodes", 2, 0, 503, "not ready: no set of 2 masters and 0 replicas; there are 1 master and 2 replicas", "pg2:5432 up replica")
		time.Sleep(time.Second)
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		expect("without the master", 1, 0, 503, "not ready: no master; there are 0 masters and 2 replicas", "pg3:5432 up replica")
		expect("without the master", 0, 2, 200)
		expect("without the master", -1, -1, 503)
		c.Node("pg2").Promote()
		time.Sleep(time.Second)
		expect("after the failover", 1, 1, 200)
		expect("more than there are", 3, 1, 500, "hasql: Ready(3, 1): there are only 3 nodes")
		closeManager(t, pm)
		expect("closed", 0, 0, 503, "not ready: closed")
	})
}

func TestLiveUntilClosed(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, n := range c.Nodes() {
			n.Kill()
		}
		pm := open(t, c, c.DSN())
		time.Sleep(10 * time.Second)
		if answer := get(Live(pm), "/livez"); answer.Code != 200 {
			t.Errorf("without any node: %d %s", answer.Code, answer.Body)
		}
		closeManager(t, pm)
		if answer := get(Live(pm), "/livez"); answer.Code != 503 || answer.Body.String() != "closed\n" {
			t.Errorf("closed: %d %s", answer.Code, answer.Body)
		}
	})
}
