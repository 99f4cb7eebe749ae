package promhasql

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test against three nodes in memory, in virtual time: pg1 is the master.
func bubble(t *testing.T, test func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager)) {
	t.Helper()
	testenv.Bubble(t, func(t *testing.T) {
		c := pgfake.New("pg1", "pg2", "pg3")
		t.Cleanup(c.Close)
		config, err := hasql.ParseConfig(c.DSN() + "&pool_max_conns=4")
		if err != nil {
			t.Fatal(err)
		}
		config.Checker = checker(c)
		equip(c, config.Nodes)
		pm, err := hasql.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := pm.Close(ctx); err != nil {
				t.Error(err)
			}
		})
		if err := pm.Ready(t.Context(), 1, 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		test(t, c, pm)
	})
}

func equip(c *pgfake.Cluster, nodes []hasql.NodeConfig) {
	for _, n := range nodes {
		n.Pool.ConnConfig.DialFunc, n.Pool.ConnConfig.LookupFunc = c.Dial, c.Lookup
	}
}

// checker asks the node only for its name, which fails if the node is down, and takes the rest from the fake.
func checker(c *pgfake.Cluster) hasql.Checker {
	return hasql.CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (hasql.Report, error) {
		var name string
		if err := conn.QueryRow(ctx, "read").Scan(&name); err != nil {
			return hasql.Report{}, err
		}
		n := c.Node(name).State()
		report := hasql.Report{
			Role: hasql.RoleMaster, InRecovery: n.InRecovery, Timeline: uint32(n.Timeline), LSN: hasql.LSN(n.LSN),
			SystemID: uint64(n.SystemID), StartTime: n.StartTime,
		}
		if n.InRecovery {
			report.Role, report.ReplayDelay = hasql.RoleReplica, time.Since(n.ReplayedAt)
		}
		return report, nil
	})
}

// scrape returns the values of all series, by name and labels: hasql_node_up{node="pg1",role="master"}. The registry checks
// what the collector sends, as Prometheus would.
func scrape(t *testing.T, pm *hasql.PoolManager) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(pm))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			suffix := ""
			if len(labels) > 0 {
				suffix = "{" + strings.Join(labels, ",") + "}"
			}
			if h := m.GetHistogram(); h != nil {
				series[family.GetName()+"_sum"+suffix], series[family.GetName()+"_count"+suffix] = h.GetSampleSum(), float64(h.GetSampleCount())
				for _, b := range h.GetBucket() {
					series[fmt.Sprintf("%s_bucket{%s,le=%q}", family.GetName(), strings.Join(labels, ","), fmt.Sprint(b.GetUpperBound()))] = float64(b.GetCumulativeCount())
				}
				continue
			}
			series[family.GetName()+suffix] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return series
}

// expect compares some series with what they should be.
func expect(t *testing.T, when string, got, want map[string]float64) {
	t.Helper()
	for name, value := range want {
		if is, ok := got[name]; !ok || is != value {
			t.Errorf("%s: %s is %v (%v), not %v", when, name, is, ok, value)
		}
	}
}

// name is the label of a node, as the configuration names it.
func name(c *pgfake.Cluster, node string) string { return c.Node(node).Addr() }

func TestScrapeShowsAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		pg1, pg2, pg3 := name(c, "pg1"), name(c, "pg2"), name(c, "pg3")
		before := scrape(t, pm)
		expect(t, "before", before, map[string]float64{
			"hasql_masters": 1, "hasql_replicas": 2, "hasql_failovers_total": 0, "hasql_connections_cut_total": 0, "hasql_statements_repeated_total": 0, "hasql_paused": 0, "hasql_discovery_failing": 0,
			`hasql_node_up{node="` + pg1 + `",role="master"}`:            1,
			`hasql_node_up{node="` + pg1 + `",role="replica"}`:           0,
			`hasql_node_up{node="` + pg2 + `",role="replica"}`:           1,
			`hasql_node_status{node="` + pg1 + `",status="up"}`:          1,
			`hasql_node_status{node="` + pg1 + `",status="down"}`:        0,
			`hasql_connections_max{node="` + pg1 + `"}`:                  4,
			`hasql_connections{node="` + pg1 + `",state="in_use"}`:       0,
			`hasql_replication_lag_bytes{node="` + pg3 + `"}`:            0,
			`hasql_acquires_waiting{target="master"}`:                    0,
			`hasql_acquire_wait_seconds_count{target="prefer_replica"}`:  0,
			`hasql_node_acquires_total{node="` + pg1 + `",target="any"}`: 0,
			`hasql_guest_connections{node="` + pg1 + `"}`:                0,
		})
		if _, ok := before["hasql_discovery_last_success_timestamp_seconds"]; ok {
			t.Error("there is no Discoverer")
		}

		c.Node("pg1").Kill()
		synctest.Wait()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				conn, err := pm.AcquireMaster(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				conn.Release()
			})
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		during := scrape(t, pm)
		expect(t, "during", during, map[string]float64{
			"hasql_masters": 0, "hasql_replicas": 2, "hasql_failovers_total": 0,
			`hasql_node_up{node="` + pg1 + `",role="master"}`:     0,
			`hasql_node_status{node="` + pg1 + `",status="up"}`:   0,
			`hasql_node_status{node="` + pg1 + `",status="down"}`: 1,
			`hasql_acquires_waiting{target="master"}`:             3,
			`hasql_acquires_waiting{target="replica"}`:            0,
			`hasql_acquire_wait_seconds_count{target="master"}`:   before[`hasql_acquire_wait_seconds_count{target="master"}`],
		})
		const missing = "hasql_master_missing_seconds_total"
		if d := during[missing] - before[missing]; d < 4 || d > 5 {
			t.Errorf("the master has been missing for %v s", d)
		}

		c.Node("pg2").Promote()
		all.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		after := scrape(t, pm)
		expect(t, "after", after, map[string]float64{
			"hasql_masters": 1, "hasql_replicas": 1, "hasql_failovers_total": 1,
			`hasql_node_up{node="` + pg2 + `",role="master"}`:               1,
			`hasql_acquires_waiting{target="master"}`:                       0,
			`hasql_acquires_total{target="master"}`:                         3,
			`hasql_node_acquires_total{node="` + pg2 + `",target="master"}`: 3,
			`hasql_acquire_failures_total{target="master"}`:                 0,
			`hasql_acquire_wait_seconds_count{target="master"}`:             3,
			`hasql_acquire_wait_seconds_bucket{target="master",le="1"}`:     0,
			`hasql_acquire_wait_seconds_bucket{target="master",le="10"}`:    3,
		})
		if sum := after[`hasql_acquire_wait_seconds_sum{target="master"}`]; sum < 15 || sum > 18 {
			t.Errorf("three acquires have waited for %v s", sum)
		}
		if _, ok := after[`hasql_replication_lag_seconds{node="`+pg2+`"}`]; ok {
			t.Error("the master has a lag")
		}
	})
}

// A node that is drained and its successor may have one name: two series with the same labels would make the whole scrape fail.
func TestCountersSurviveNodesThatLeave(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		read := func() (release func()) {
			conn, err := pm.AcquireReplica(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return conn.Release
		}
		for range 10 {
			read()()
		}
		held := []func(){read(), read()} // one of each replica
		before := scrape(t, pm)

		all, err := hasql.ParseConfig(c.DSN())
		if err != nil {
			t.Fatal(err)
		}
		nodes := []hasql.NodeConfig{all.Nodes[0], all.Nodes[2]}
		nodes[1].Name = name(c, "pg2") // pg3 takes the name of pg2, which is being drained
		equip(c, nodes)
		if err := pm.SetNodes(t.Context(), nodes); err != nil {
			t.Fatal(err)
		}
		if n := pm.Snapshot().Len(); n != 3 {
			t.Fatalf("%d nodes", n)
		}
		during := scrape(t, pm)
		expect(t, "while pg2 is drained", during, map[string]float64{
			`hasql_node_status{node="` + name(c, "pg2") + `",status="banned"}`: 0,
			`hasql_acquires_total{target="replica"}`:                           before[`hasql_acquires_total{target="replica"}`],
		})
		for _, release := range held {
			release()
		}
		time.Sleep(time.Minute)
		if n := pm.Snapshot().Len(); n != 2 {
			t.Fatalf("%d nodes", n)
		}
		expect(t, "without pg2", scrape(t, pm), map[string]float64{
			`hasql_acquires_total{target="replica"}`: before[`hasql_acquires_total{target="replica"}`],
		})
	})
}

func TestNamesFollowTheConventions(t *testing.T) {
	bubble(t, func(t *testing.T, _ *pgfake.Cluster, pm *hasql.PoolManager) {
		problems, err := testutil.CollectAndLint(NewCollector(pm))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	})
}

// A process with several PoolManagers tells them apart by a label, also after one was closed.
func TestSeveralPoolManagers(t *testing.T) {
	bubble(t, func(t *testing.T, _ *pgfake.Cluster, pm *hasql.PoolManager) {
		registry := prometheus.NewPedanticRegistry()
		for _, cluster := range []string{"orders", "users"} {
			prometheus.WrapRegistererWith(prometheus.Labels{"cluster": cluster}, registry).MustRegister(NewCollector(pm))
		}
		if err := pm.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, err := testutil.GatherAndCount(registry, "hasql_masters"); n != 2 || err != nil {
			t.Errorf("%d series, %v", n, err)
		}
	})
}
