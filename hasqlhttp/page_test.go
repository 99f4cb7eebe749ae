package hasqlhttp

import (
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgfake"
)

func TestPageShowsTheCluster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, c.DSN()+"&pool_max_conns=4&hasql_zones=a,b,")
		ready(t, pm)
		if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
			t.Fatal(err)
		}
		conn, err := pm.AcquireMaster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		time.Sleep(2 * time.Second) // until the next probes have shown it

		page := parse(t, get(Handler(pm), "/hasql").Body.String())
		if got := page.all("p")[0].text; got != "1 master, 2 replicas; 3 of 3 nodes up." {
			t.Errorf("in one sentence: %q", got)
		}
		nodes := page.rows(t, "nodes")
		if len(nodes) != 3 {
			t.Fatalf("%d nodes", len(nodes))
		}
		for heading, want := range map[string]string{
			"Node": "pg1:5432", "Zone": "a", "Role": "master", "Status": "✓ up", "For": "2.0 s", "Timeline": "1",
			"Lag": "0 B, 0 s", "Pool": "1 in use, 0 idle, max 4", "Acquires": "2", "Cause": "–",
		} {
			if got := nodes[0][heading]; got != want {
				t.Errorf("%s of the master: %q, want %q", heading, got, want)
			}
		}
		if got := nodes[1]["Role"] + nodes[1]["Zone"] + nodes[2]["Role"] + nodes[2]["Zone"]; got != "replicabreplica–" {
			t.Errorf("roles and zones of the others: %s", got)
		}
		targets := page.rows(t, "targets")
		if len(targets) != 4 || targets[1]["Target"] != "master" || targets[1]["Acquires"] != "2" || targets[1]["Failed"] != "0" {
			t.Errorf("targets: %v", targets)
		}
	})
}

func TestPageShowsWhoQueues(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, c.DSN()+"&pool_max_conns=1")
		ready(t, pm)
		conn, err := pm.AcquireMaster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var queue sync.WaitGroup
		for range 2 {
			queue.Go(func() {
				if err := pm.Master().Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		nodes := parse(t, get(Handler(pm), "/").Body.String()).rows(t, "nodes")
		if got := nodes[0]["Pool"]; got != "1 in use, 0 idle, max 1, 2 waiting" {
			t.Errorf("pool: %s", got)
		}
		conn.Release()
		queue.Wait()
	})
}

func TestPageTellsThatTheMasterIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var history History
		pm := open(t, c, c.DSN(), func(c *hasql.Config) { c.Hooks = history.Hooks(c.Hooks) })
		ready(t, pm)
		time.Sleep(time.Second)
		c.Node("pg1").Kill()
		time.Sleep(4200 * time.Millisecond)
		page := parse(t, get(Handler(pm, WithHistory(&history)), "/").Body.String())
		if got := page.all("p")[0].text; got != "No master for 4.2 s, 2 replicas; 2 of 3 nodes up." {
			t.Errorf("in one sentence: %q", got)
		}
		if got := page.all("title")[0].text; got != "2 of 3 up, no master – hasql" {
			t.Errorf("title: %q", got)
		}
		row := page.rows(t, "nodes")[0]
		if row["Status"] != "✕ down" || row["Role"] != "unknown" || row["Lag"] != "unknown" || !strings.Contains(row["Cause"], "connection refused") {
			t.Errorf("the dead master: %v", row)
		}
		last := page.rows(t, "transitions")[0]
		if last["When"] != "4.2 s ago" || last["Node"] != "pg1:5432" || last["Became"] != "✕ down unknown" || last["Was"] != "up master" {
			t.Errorf("last transition: %v", last)
		}
	})
}

func TestPageSaysUnknownOfWhatIsUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Node("pg3").Cut()
		// The fake refuses the full probe, like a product that is compatible with PostgreSQL's protocol only.
		pm := open(t, c, c.DSN(), func(c *hasql.Config) { c.Checker = nil })
		if err := pm.Ready(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		nodes := parse(t, get(Handler(pm), "/").Body.String()).rows(t, "nodes")
		if n := nodes[1]; n["Role"] != "replica" || n["Timeline"] != "unknown" {
			t.Errorf("a node that says its role alone: %v", n)
		}
		if n := nodes[2]; n["Evidence"] != "none" || n["Latency"] != "unknown" || n["Lag"] != "unknown" || n["Status"] != "? suspect" {
			t.Errorf("a node that says nothing: %v", n)
		}
	})
}

func TestPageTellsThatItIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, c.DSN())
		ready(t, pm)
		closeManager(t, pm)
		page := parse(t, get(Handler(pm), "/").Body.String())
		if got := page.all("p")[0].text; !strings.HasPrefix(got, "Closed.") || page.all("title")[0].text != "closed – hasql" {
			t.Errorf("of a closed PoolManager: %q", got)
		}
	})
}

func TestPageIsAccessibleAndRunsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var history History
		pm := open(t, c, c.DSN(), func(c *hasql.Config) {
			c.Hooks = history.Hooks(c.Hooks)
			c.Nodes[0].Zone = "<script>alert(1)</script>"
		})
		ready(t, pm)
		time.Sleep(time.Second)
		answer := get(Handler(pm, WithHistory(&history)), "/?refresh=5")
		page := parse(t, answer.Body.String())
		if len(page.all("script")) > 0 {
			t.Error("the page has a script")
		}
		if regexp.MustCompile(`(?i)\son\w+=|\sstyle=|javascript:|https?://`).MatchString(answer.Body.String()) {
			t.Error("the page has a handler, an inline style or a foreign address")
		}
		if got := page.all("html")[0].attr["lang"]; got != "en" {
			t.Errorf("language: %q", got)
		}
		tables := page.all("table")
		if len(tables) != 3 {
			t.Fatalf("%d tables", len(tables))
		}
		for _, table := range tables {
			if table.attr["role"] != "table" || len(table.all("caption")) != 1 {
				t.Errorf("table %s has no role or no caption", table.attr["id"])
			}
			for _, th := range table.all("th") {
				if th.attr["scope"] == "" || th.attr["role"] == "" || th.text == "" {
					t.Errorf("a heading without scope, role or text: %v", th)
				}
			}
			for _, td := range table.all("td") {
				if td.attr["role"] != "cell" || td.text == "" {
					t.Errorf("a cell without role or text: %v", td)
				}
			}
		}
		_, style, _ := strings.Cut(answer.Body.String(), "<style>")
		style, _, _ = strings.Cut(style, "</style>")
		sum := sha256.Sum256([]byte(style))
		allowed := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
		if policy := answer.Header().Get("Content-Security-Policy"); style == "" || !strings.Contains(policy, allowed) {
			t.Errorf("the policy does not allow the page's style: %s", policy)
		}
	})
}
