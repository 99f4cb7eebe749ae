package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pghasql/hasql"
)

// collector exports the state and the counters of the pool to Prometheus. It reads them at each scrape.
type collector struct{ pool *hasql.PoolManager }

var (
	nodeUp = prometheus.NewDesc("hasql_node_up", "1 if the node serves in this role, else 0.", []string{"node", "role"}, nil)
	lag    = prometheus.NewDesc("hasql_replication_lag_seconds", "How far the node is behind the master, if known.", []string{"node"}, nil)
	inUse  = prometheus.NewDesc("hasql_connections_in_use", "Connections lent.", []string{"node"}, nil)
	limit  = prometheus.NewDesc("hasql_connections_max", "Connections that may be open.", []string{"node"}, nil)

	acquires = prometheus.NewDesc("hasql_acquires_total", "Connections lent so far.", []string{"target"}, nil)
	failures = prometheus.NewDesc("hasql_acquire_failures_total", "Acquires that failed.", []string{"target"}, nil)
	waited   = prometheus.NewDesc("hasql_acquire_wait_seconds_total", "Time that acquires waited.", []string{"target"}, nil)
)

func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeUp, lag, inUse, limit, acquires, failures, waited} {
		descs <- d
	}
}

func (c collector) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
	}
	stat := c.pool.Stat()
	for _, n := range stat.Nodes() {
		for _, role := range []hasql.Role{hasql.RoleMaster, hasql.RoleReplica} {
			up := 0.0
			if n.Role == role {
				up = 1
			}
			gauge(nodeUp, up, n.Name, role.String())
		}
		if n.LagKnown {
			gauge(lag, n.LagTime.Seconds(), n.Name)
		}
		gauge(inUse, float64(n.Pool.AcquiredConns()), n.Name)
		gauge(limit, float64(n.Pool.MaxConns()), n.Name)
	}
	for target, t := range stat.Targets() {
		name := target.String()
		counter(acquires, float64(t.Acquires), name)
		counter(failures, float64(t.Failures), name)
		counter(waited, t.WaitTime.Seconds(), name)
	}
}
