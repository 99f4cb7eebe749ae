package dsn

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Defaults where pgxpool has none, or none that suits a cluster whose nodes die.
const (
	defaultConnectTimeout    = 2 * time.Second // pgxpool: 2 minutes, each holding a slot of the pool
	defaultHealthCheckPeriod = 5 * time.Second // pgxpool: 1 minute until MinConns is restored
)

// Pool parses the DSN once more for one of its hosts alone, so that TLS names, TLS fallbacks and the .pgpass entry are that
// host's own. Of the settings that pgx does not know, all are among its runtime parameters.
func (d *DSN) Pool(e Endpoint, network Network, ours func(key string) bool) (*pgxpool.Config, error) {
	host := e.Host
	if isAbstract(host) {
		host = "/" + host // or pgx would set up TLS, which a socket has not
	}
	pool, err := pgxpool.ParseConfig(override(d.text, "host", host, "port", strconv.Itoa(int(e.Port))))
	if err != nil {
		return nil, driverProblem(err)
	}
	pool.ConnConfig.Host = e.Host
	d.Settings.adapt(pool, ours)
	network.prepare(pool.ConnConfig, e)
	return pool, nil
}

// adapt makes a pool of pgx's own defaults one for a node of a cluster. Settings that are ours are kept from the server.
func (set Settings) adapt(pool *pgxpool.Config, ours func(key string) bool) {
	conn := pool.ConnConfig
	maps.DeleteFunc(conn.RuntimeParams, func(key, _ string) bool { return ours(key) })
	if name := set["fallback_application_name"]; name != "" && conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = name
	}
	conn.ValidateConnect = nil // target_session_attrs: the route decides, the pool takes the node in every role
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = defaultConnectTimeout
	}
	if _, given := set["pool_max_conn_lifetime_jitter"]; !given {
		pool.MaxConnLifetimeJitter = pool.MaxConnLifetime / 10
	}
	if _, given := set["pool_health_check_period"]; !given {
		pool.HealthCheckPeriod = defaultHealthCheckPeriod
	}
}

// PoolProblems says what makes no sense in the pool of the node of that name: what pgxpool would accept, to panic or hang
// later, and more hosts than one.
func PoolProblems(name string, p *pgxpool.Config) (list []string) {
	refuse := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if SeveralHosts(p) {
		refuse("Nodes: the pool of %q has more than one host", name)
	}
	if p.MaxConns < 1 {
		refuse("pool_max_conns must be at least 1, not %d", p.MaxConns)
	}
	if p.MinConns < 0 || p.MinConns > p.MaxConns {
		refuse("pool_min_conns must be from 0 to pool_max_conns (%d), not %d", p.MaxConns, p.MinConns)
	}
	if p.MinIdleConns < 0 || p.MinIdleConns > p.MaxConns {
		refuse("pool_min_idle_conns must be from 0 to pool_max_conns (%d), not %d", p.MaxConns, p.MinIdleConns)
	}
	if p.HealthCheckPeriod <= 0 {
		refuse("pool_health_check_period must be positive, not %v", p.HealthCheckPeriod)
	}
	if p.PingTimeout < 0 {
		refuse("pool_ping_timeout must not be negative: %v", p.PingTimeout)
	}
	return list
}

// SeveralHosts reports whether a pool falls back on another host than its first.
func SeveralHosts(pool *pgxpool.Config) bool {
	return slices.ContainsFunc(pool.ConnConfig.Fallbacks, func(f *pgconn.FallbackConfig) bool {
		return f.Host != pool.ConnConfig.Host || f.Port != pool.ConnConfig.Port
	})
}
