// Package promhasql exports the state and the counters of a [hasql.PoolManager] to Prometheus:
//
//	registry.MustRegister(promhasql.NewCollector(pool))
//
// The names of the metrics begin with hasql_. docs/metrics.md lists them. alerts.yml beside this file has alerting rules for
// them, and dashboard.json a dashboard for Grafana.
//
// The values of all labels are names of nodes, or words of a fixed set: the number of time series grows with the number of nodes
// and with nothing else. A series of a node ends when the node leaves. Counters without the label node never decrease while the
// process runs, also when nodes leave.
package promhasql
