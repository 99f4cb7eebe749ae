package promhasql

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pghasql/hasql"
)

// The metrics. docs/metrics.md lists them, which a test checks.
var (
	masters         = desc("masters", "Nodes that may be written to, normally 1.")
	replicas        = desc("replicas", "Nodes that may be read from only.")
	masterMissing   = desc("master_missing_seconds_total", "Time during which no master was known, the present outage included.")
	failovers       = desc("failovers_total", "How many times another node has become the master than was it last.")
	connectionsCut  = desc("connections_cut_total", "Connections that were cut because their node was down, stale or foreign.")
	repeated        = desc("statements_repeated_total", "Statements that ran again because a stopping server had undone them.")
	paused          = desc("paused", "1 while an operator holds back acquires of the master, else 0.")
	discoveryFails  = desc("discovery_failing", "1 if the last question which nodes there are failed, else 0.")
	discoveryAnswer = desc("discovery_last_success_timestamp_seconds", "When the last good answer came to the question which nodes there are.")

	nodeUp      = desc("node_up", "1 if the node serves in this role, else 0.", "node", "role")
	nodeStatus  = desc("node_status", "1 for the status that the node has, 0 for each other.", "node", "status")
	latency     = desc("node_probe_latency_seconds", "Time that a probe of the node takes, averaged over the last few.", "node")
	evidenceAge = desc("node_evidence_age_seconds", "Time since the last probe was sent that the node has answered.", "node")
	lagSeconds  = desc("replication_lag_seconds", "How far a replica is behind the master, in time. Missing while unknown.", "node")
	lagBytes    = desc("replication_lag_bytes", "How far a replica is behind the master, in bytes of WAL. Missing while unknown.", "node")

	connections     = desc("connections", "Connections of the node's pool.", "node", "state")
	connectionsMax  = desc("connections_max", "Limit of the connections of the node's pool.", "node")
	guests          = desc("guest_connections", "Connections to the node beside its pool: of a sql.DB, of a pool that follows a route.", "node")
	poolWaiting     = desc("pool_waiting", "Acquires that wait for a connection of the node's pool at this moment.", "node")
	connectionsOpen = desc("connections_opened_total", "Connections that the node's pool has opened.", "node")
	nodeAcquires    = desc("node_acquires_total", "Connections that the node's pool has lent, by what was asked for.", "node", "target")

	acquires    = desc("acquires_total", "Connections lent, by what was asked for.", "target")
	failures    = desc("acquire_failures_total", "Acquires that failed, also because their context ended.", "target")
	acquireWait = desc("acquire_wait_seconds", "Time spent by acquires that found no connection idle and have ended, failed ones included.", "target")
	waiting     = desc("acquires_waiting", "Acquires that wait at this moment.", "target")
)

var all = []*prometheus.Desc{
	masters, replicas, masterMissing, failovers, connectionsCut, repeated, paused, discoveryFails, discoveryAnswer,
	nodeUp, nodeStatus, latency, evidenceAge, lagSeconds, lagBytes,
	connections, connectionsMax, guests, poolWaiting, connectionsOpen, nodeAcquires,
	acquires, failures, acquireWait, waiting,
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("hasql_"+name, help, labels, nil)
}

// targetNames are the values of the label target.
var targetNames = map[hasql.Target]string{
	hasql.TargetAny:           "any",
	hasql.TargetMaster:        "master",
	hasql.TargetReplica:       "replica",
	hasql.TargetPreferReplica: "prefer_replica",
}

// servingRoles and statuses are the values of the labels role and status.
var (
	servingRoles = []hasql.Role{hasql.RoleMaster, hasql.RoleReplica}
	statuses     = []hasql.Status{
		hasql.StatusSuspect, hasql.StatusUp, hasql.StatusDown, hasql.StatusStale, hasql.StatusForeign, hasql.StatusBanned,
	}
)

type collector struct{ pm *hasql.PoolManager }

// NewCollector returns a collector of the metrics of pm. It reads them at each scrape, which takes a lock of each pool for a
// moment and never waits for a node. It may be used until the process ends, also after pm was closed.
//
// A process with several PoolManagers registers each with a label of its own, for otherwise their metrics would be the same:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"cluster": "orders"}, registry).MustRegister(promhasql.NewCollector(orders))
func NewCollector(pm *hasql.PoolManager) prometheus.Collector { return collector{pm} }

// Describe sends the descriptions of all metrics.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range all {
		descs <- d
	}
}

// Collect sends the present values.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	stat, s := c.pm.Stat(), sink{metrics}
	s.cluster(stat)
	seen := make(map[string]bool)
	for _, n := range stat.Nodes() {
		// A node that is being drained may have the name of the one that replaces it, which comes first.
		if !seen[n.Name] {
			seen[n.Name] = true
			s.node(&n)
			s.pool(&n)
		}
	}
	for target, name := range targetNames {
		s.target(stat.Target(target), name)
	}
}

// sink sends metrics to a scrape.
type sink struct{ metrics chan<- prometheus.Metric }

func (s sink) gauge(d *prometheus.Desc, value float64, labels ...string) {
	s.metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (s sink) counter(d *prometheus.Desc, value float64, labels ...string) {
	s.metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
}

func (s sink) cluster(stat *hasql.Stat) {
	snapshot, discovery := stat.Snapshot(), stat.Discovery()
	s.gauge(masters, float64(snapshot.MasterCount()))
	s.gauge(replicas, float64(snapshot.ReplicaCount()))
	s.counter(masterMissing, stat.NoMasterTime().Seconds())
	s.counter(failovers, float64(stat.Failovers()))
	s.counter(connectionsCut, float64(stat.ConnectionsCut()))
	s.counter(repeated, float64(stat.StatementsRepeated()))
	s.gauge(paused, oneIf(snapshot.Paused()))
	s.gauge(discoveryFails, oneIf(discovery.Failing()))
	if last := discovery.LastSuccess; !last.IsZero() {
		s.gauge(discoveryAnswer, float64(last.UnixMilli())/1000)
	}
}

func (s sink) node(n *hasql.NodeStat) {
	for _, role := range servingRoles {
		s.gauge(nodeUp, oneIf(n.Role == role), n.Name, role.String())
	}
	for _, status := range statuses {
		s.gauge(nodeStatus, oneIf(n.Status == status), n.Name, status.String())
	}
	if n.Latency > 0 {
		s.gauge(latency, n.Latency.Seconds(), n.Name)
	}
	if n.Age >= 0 {
		s.gauge(evidenceAge, n.Age.Seconds(), n.Name)
	}
	if n.LagKnown && n.Role == hasql.RoleReplica {
		s.gauge(lagSeconds, n.LagTime.Seconds(), n.Name)
		s.gauge(lagBytes, float64(n.LagBytes), n.Name)
	}
}

func (s sink) pool(n *hasql.NodeStat) {
	s.gauge(connections, float64(n.Pool.AcquiredConns()), n.Name, "in_use")
	s.gauge(connections, float64(n.Pool.IdleConns()), n.Name, "idle")
	s.gauge(connections, float64(n.Pool.ConstructingConns()), n.Name, "opening")
	s.gauge(connectionsMax, float64(n.Pool.MaxConns()), n.Name)
	s.gauge(guests, float64(n.Guests), n.Name)
	s.gauge(poolWaiting, float64(max(0, -n.Free())), n.Name)
	s.counter(connectionsOpen, float64(n.Pool.NewConnsCount()), n.Name)
	for target, name := range targetNames {
		s.counter(nodeAcquires, float64(n.Acquires(target)), n.Name, name)
	}
}

func (s sink) target(t hasql.TargetStat, name string) {
	s.counter(acquires, float64(t.Acquires), name)
	s.counter(failures, float64(t.Failures), name)
	buckets := make(map[float64]uint64)
	for bound, waits := range t.WaitHistogram() {
		buckets[bound.Seconds()] = uint64(waits)
	}
	s.metrics <- prometheus.MustNewConstHistogram(acquireWait, uint64(t.Waits), t.WaitTime.Seconds(), buckets, name)
	s.gauge(waiting, float64(t.Waiting), name)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
