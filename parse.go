package hasql

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/pghasql/hasql/discovery"
	"github.com/pghasql/hasql/internal/dsn"
)

// ParseConfig reads a DSN for one or more hosts, in one of libpq's two forms. It also reads libpq's environment variables,
// service file and password file:
//
//	postgres://app@pg1:5432,pg2:5432,pg3:5432/shop?sslmode=verify-full&hasql_fallback_master=true
//	host=pg1,pg2,pg3 user=app dbname=shop hasql_check_interval=500ms
//
// It accepts everything that [pgxpool.ParseConfig] accepts, and pool_max_conns and the other pool settings apply to each
// node. It also accepts:
//
//   - host=@name, a socket in Linux's abstract namespace (in a URL %40name)
//   - hostaddr, load_balance_hosts, keepalives, keepalives_idle, keepalives_interval, keepalives_count,
//     tcp_user_timeout and fallback_application_name as in
//     https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
//   - hasql_check_interval, hasql_check_timeout, hasql_down_timeout, hasql_recovery_interval, hasql_acquire_timeout,
//     hasql_max_replica_lag: durations such as 500ms
//   - hasql_fallback_master, hasql_multi_master, hasql_require_majority, hasql_repeat, hasql_trace_commits: true or false
//   - hasql_master_as_replica_weight: a number from 0 to 1; hasql_zone_spillover: a number above 0 and at most 1
//   - hasql_balancer: least_loaded, greedy, round_robin, random, random_weighted, nearest or first
//   - hasql_zones: the availability zone of each host, in the order of the hosts, separated by commas
//   - hasql_discovery: dns or srv, whose name is the only host of the DSN; or hasql_patroni: URLs of Patroni's REST API, separated
//     by commas. They become [Config.Discoverer]. hasql_discovery_interval: a duration
//
// target_session_attrs sets [Config.Target]; it excludes no node. Without hasql_balancer, load_balance_hosts=random means the
// balancer random, and load_balance_hosts=disable means first. If neither key is given the balancer is least_loaded, although
// libpq would try the hosts in order.
//
// ParseConfig sets a safe limit where pgxpool has none: connect_timeout is 2 s, pool_ping_timeout is hasql_check_timeout,
// pool_max_conn_lifetime_jitter is a tenth of the lifetime, pool_health_check_period is 5 s, TCP keep-alive begins after 1 s
// and sends 3 probes at intervals of 1 s, and tcp_user_timeout is hasql_down_timeout.
//
// An empty DSN is an error unless the environment names a host (PGHOST, PGHOSTADDR) or a service (PGSERVICE): most often it is a
// variable of the service that was not set. For libpq's default host say host=localhost, or host= and the folder of its socket. The
// error of an invalid DSN is a [*ConfigError]. It names every problem and contains no part of the DSN that could be a
// password.
func ParseConfig(connString string) (*Config, error) {
	d, err := dsn.Parse(connString)
	if err != nil {
		return nil, &ConfigError{Problems: []string{err.Error()}}
	}
	if d.NamesNothing() {
		return nil, &ConfigError{Problems: []string{"the DSN is empty, and neither PGHOST nor PGSERVICE is set: name the hosts of the cluster, as in postgres://app@pg1,pg2,pg3/shop"}}
	}
	c := &Config{Repeat: true, TraceCommits: true, source: d}
	var problems []string
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	for _, key := range slices.Sorted(maps.Keys(d.Settings)) {
		value := d.Settings[key]
		apply, known := settings[key]
		switch problem := dsn.KeyProblem(key); {
		case problem != "":
			refuse("%s", problem)
		case known:
			if err := apply(c, value); err != nil {
				refuse("%s: %v", dsn.Show(key, value), err)
			}
		case strings.HasPrefix(key, "hasql_"):
			refuse("%s: no such option", key)
		}
	}
	if c.Discoverer, err = discovererOf(d); err != nil {
		refuse("%v", err)
	}
	c.setDefaults()
	problems = append(problems, c.problems()...)

	zones := make([]string, len(d.Endpoints))
	if list := d.Settings["hasql_zones"]; list != "" {
		given := strings.Split(list, ",")
		if len(given) != len(zones) {
			refuse("hasql_zones: %d zones for %d hosts", len(given), len(zones))
		}
		if !dsn.Showable(strings.ReplaceAll(list, " ", "")) {
			refuse("hasql_zones: a zone may contain only letters, digits and .:%%+/_-")
		}
		copy(zones, given)
	}
	network, wrong := d.Settings.Network(c.DownTimeout)
	problems = append(problems, wrong...)
	for i, e := range d.Endpoints {
		if slices.Contains(d.Endpoints[:i], e) {
			continue
		}
		name := e.Name()
		if slices.ContainsFunc(c.Nodes, func(n NodeConfig) bool { return n.Name == name }) {
			name = fmt.Sprintf("%s (%s)", name, cmp.Or(e.Addr, "DNS"))
		}
		pool, err := d.Pool(e, network, isOurs)
		if err != nil {
			refuse("%v", err)
			break // every host has the same settings and would give the same error
		}
		problems = append(problems, dsn.PoolProblems(name, pool)...)
		addr, _ := netip.ParseAddr(e.Addr) // that it is one has been checked
		c.Nodes = append(c.Nodes, NodeConfig{Name: name, Zone: strings.TrimSpace(zones[i]), Pool: pool, addr: addr})
	}
	if len(problems) > 0 {
		return nil, &ConfigError{Problems: unique(problems)}
	}
	if d.LastPortOnly() {
		c.warnings = append(c.warnings, fmt.Sprintf("only the last host of the DSN has a port: the other hosts use 5432, as in libpq (the first node is %s)",
			c.Nodes[0].Name))
	}
	return c, nil
}

// discovererOf makes the Discoverer that a DSN names, nil if it names none.
func discovererOf(d *dsn.DSN) (Discoverer, error) {
	kind, urls := d.Settings["hasql_discovery"], d.Settings["hasql_patroni"]
	switch {
	case kind != "" && urls != "":
		return nil, errors.New("hasql_discovery and hasql_patroni: there can be one discovery only")
	case urls != "":
		return discovery.Patroni(strings.Split(urls, ",")...), nil
	case kind == "":
		return nil, nil
	}
	e := d.Endpoints[0]
	switch {
	case len(d.Endpoints) > 1 || e.Addr != "":
		return nil, errors.New("hasql_discovery: the DSN needs exactly one host, without a hostaddr: the name to ask for")
	case kind == "srv":
		return discovery.SRV(e.Host), nil
	}
	return discovery.DNS(e.Host, e.Port), nil
}
