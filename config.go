package hasql

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// Defaults of [Config].
const (
	DefaultCheckInterval    = time.Second
	DefaultCheckTimeout     = 500 * time.Millisecond
	DefaultDownTimeout      = 3 * time.Second
	DefaultRecoveryInterval = 10 * time.Millisecond
	DefaultAcquireTimeout   = 30 * time.Second
)

// Defaults that ParseConfig puts where pgxpool has none, or none that suits a cluster whose nodes die.
const (
	defaultConnectTimeout    = 2 * time.Second // pgxpool: 2 minutes, each holding a slot of the pool
	defaultHealthCheckPeriod = 5 * time.Second // pgxpool: 1 minute until MinConns is restored
	defaultKeepalive         = time.Second
	defaultKeepaliveCount    = 3
)

// Config says how a [PoolManager] behaves. Make one with [ParseConfig], edit it, and hand it to [NewWithConfig], which
// takes a deep copy. A zero duration means the default.
type Config struct {
	// Nodes are the servers of the cluster in the order of the DSN, each once.
	Nodes []NodeConfig

	// Target is where [PoolManager.Default] sends its work: target_session_attrs. The default is [TargetAny].
	Target Target

	// CheckInterval is the time between two probes of a healthy node, ±10 % at random. The default is 1 s. A role
	// that changes without an error on any connection is noticed within it.
	CheckInterval time.Duration

	// CheckTimeout is how long a probe may stay unanswered, connecting included, before its node is suspect and gets
	// no new acquires. The default is 500 ms.
	CheckTimeout time.Duration

	// DownTimeout is how long a node may be silent before it is down and its connections are cut. The default is
	// 3 s; at least CheckTimeout. A node that refuses connections is down at once.
	DownTimeout time.Duration

	// RecoveryInterval is the time between two probes of each node while no master is known. The default is 10 ms;
	// it becomes 5 times as long after 5 s and 25 times as long after 30 s, or at once if no master was ever seen, never longer
	// than CheckInterval. A node that must be dialled for it is dialled after twice as long each time, up to 25 times; one
	// that refuses the log-in once per CheckInterval.
	RecoveryInterval time.Duration

	// AcquireTimeout is the budget of one acquire: waiting for a fitting node and getting a connection to it. The
	// default is 30 s. The caller's context may end it sooner; if negative, only the context ends it.
	AcquireTimeout time.Duration

	// FallbackMaster lets reads go to the master while no replica fits.
	FallbackMaster bool

	// MasterAsReplicaWeight is the share of reads that the master takes although replicas fit, from 0 (the default)
	// to 1.
	MasterAsReplicaWeight float64

	// MaxReplicaLag leaves out replicas that are known to be further behind than this, and those that do not tell their
	// position. The default, 0, allows any lag. It is measured by probes, so what is read may be older by CheckInterval; New
	// warns of a limit below that.
	//
	// While a master that was known does not answer, it may have written what a replica lacks: for so long the replica counts
	// as behind, but not for longer than its last transaction is old. Where no master was known yet, replicas are measured by
	// the one that has most; of that one the lag is unknown, and it is used.
	MaxReplicaLag time.Duration

	// MultiMaster trusts every writable node, for products in which several nodes accept writes at once. The
	// default, false, fences: only the writable node on the highest timeline is the master. With MultiMaster nodes may have
	// system identifiers of their own, so none is foreign, and lag is measured by one of the masters.
	MultiMaster bool

	// RequireMajority trusts a master only while more than half of the nodes answer. It is for clients that may be cut off
	// together with a superseded master before they have seen the new one; the price is that a client that sees a master
	// and too few others cannot write. The default is false.
	RequireMajority bool

	// Repeat lets a [Route] run a statement again that a server sent back undone, because the server is being shut down or
	// restarted. [ParseConfig] sets it, unless the DSN says hasql_repeat=false; the zero value is off.
	Repeat bool

	// Picker chooses among fitting nodes. The default, nil, is [LeastLoaded].
	Picker Picker

	// Checker asks a node for its role. The default, nil, is [StandardChecker].
	Checker Checker

	// Logger gets transitions: Info for changes of role, Warn for nodes that become unusable, Debug for probes. The
	// default, nil, logs nothing.
	Logger *zap.Logger

	// Hooks are told of transitions.
	Hooks Hooks

	warnings []string // of ParseConfig, logged by New
}

// NodeConfig is one node of the cluster.
type NodeConfig struct {
	// Name is the node's name in logs, errors and statistics. The default is host:port, with the hostaddr in brackets if
	// that distinguishes it from an earlier node.
	Name string

	// Zone is the node's availability zone, for [WithZone]. The default is none.
	Zone string

	// Pool configures the node's pool. It must have exactly one host; [ParseConfig] sees to that. Hooks and tracers
	// set here keep working. The node's monitor connects with Pool.ConnConfig after Pool.BeforeConnect.
	Pool *pgxpool.Config
}

// ParseConfig reads a DSN for one or more hosts, in either form of libpq, with libpq's environment variables, service
// file and password file:
//
//	postgres://app@pg1:5432,pg2:5432,pg3:5432/shop?sslmode=verify-full&hasql_fallback_master=true
//	host=pg1,pg2,pg3 user=app dbname=shop hasql_check_interval=500ms
//
// It understands what [pgxpool.ParseConfig] understands (pool_max_conns and its like hold for each node), and besides:
//
//   - host=@name, a socket in Linux's abstract namespace (in a URL %40name)
//   - hostaddr, load_balance_hosts, keepalives, keepalives_idle, keepalives_interval, keepalives_count,
//     tcp_user_timeout and fallback_application_name as in
//     https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
//   - hasql_check_interval, hasql_check_timeout, hasql_down_timeout, hasql_recovery_interval, hasql_acquire_timeout,
//     hasql_max_replica_lag: durations such as 500ms
//   - hasql_fallback_master, hasql_multi_master, hasql_require_majority, hasql_repeat: true or false
//   - hasql_master_as_replica_weight: a number from 0 to 1
//   - hasql_balancer: least_loaded, greedy, round_robin, random, random_weighted, nearest or first
//   - hasql_zones: the availability zone of each host, in their order, separated by commas
//
// target_session_attrs becomes [Config.Target]; it does not keep any node out. load_balance_hosts means random or first
// where hasql_balancer is silent; where both are it is least_loaded, though libpq then tries the hosts in order. Where
// pgxpool has no limit, a safe one is set: connect_timeout 2 s, pool_ping_timeout hasql_check_timeout,
// pool_max_conn_lifetime_jitter a tenth of the lifetime, pool_health_check_period 5 s, keep-alive 1 s × 3,
// tcp_user_timeout hasql_down_timeout.
//
// An empty DSN leads to the default host, as in libpq, and a warning says so unless the environment names a host or service.
// A DSN that makes no sense is refused with a [*ConfigError] that names every problem and holds no part of the DSN that
// could be a password.
func ParseConfig(dsn string) (*Config, error) {
	endpoints, set, err := splitDSN(dsn)
	if err != nil {
		return nil, &ConfigError{Problems: []string{err.Error()}}
	}
	c := &Config{Repeat: true}
	var problems []string
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	for _, key := range slices.Sorted(maps.Keys(set)) {
		option, known := options[key]
		switch {
		case !settingName.MatchString(key):
			refuse("a key that is none of libpq's, pgx's or the server's") // and may be a piece of a password
		case known:
			if err := option(c, set[key]); err != nil {
				refuse("%s: %v", setting(key, set[key]), err)
			}
		case strings.HasPrefix(key, "hasql_"):
			refuse("%s: no such option", key)
		case strings.HasPrefix(key, "pool_") && !slices.Contains(poolOptions, key):
			refuse("%s: no such option of pgxpool", key)
		case slices.Contains(unsupported, key):
			refuse("%s: not supported by pgx", key)
		}
	}
	c.setDefaults()

	zones := make([]string, len(endpoints))
	if list := set["hasql_zones"]; list != "" {
		given := strings.Split(list, ",")
		if len(given) != len(zones) {
			refuse("hasql_zones: %d zones for %d hosts", len(given), len(zones))
		}
		if !plain.MatchString(strings.ReplaceAll(list, " ", "")) {
			refuse("hasql_zones: a zone is written with letters, digits and .:%%+/_-")
		}
		copy(zones, given)
	}
	network, wrong := parseNetwork(set, c.DownTimeout)
	problems = append(problems, wrong...)
	for i, e := range endpoints {
		if slices.Contains(endpoints[:i], e) {
			continue
		}
		name := e.name()
		if slices.ContainsFunc(c.Nodes, func(n NodeConfig) bool { return n.Name == name }) {
			name = fmt.Sprintf("%s (%s)", name, cmp.Or(e.addr, "DNS"))
		}
		pool, err := parseEndpoint(dsn, e)
		if err != nil {
			refuse("%v", err)
			break // every host has the same settings, so it would say the same again
		}
		c.adapt(pool, set, e, network)
		c.Nodes = append(c.Nodes, NodeConfig{Name: name, Zone: strings.TrimSpace(zones[i]), Pool: pool})
	}
	problems = append(problems, c.problems()...)
	if len(problems) > 0 {
		return nil, &ConfigError{Problems: unique(problems)}
	}
	if namesNothing(dsn) {
		c.warnings = append(c.warnings, fmt.Sprintf("the DSN is empty: as in libpq the default host is used (%s)", c.Nodes[0].Name))
	}
	if lastPortOnly(dsn) {
		c.warnings = append(c.warnings, fmt.Sprintf("only the last host of the DSN has a port: as in libpq the others use 5432 (%s)",
			c.Nodes[0].Name))
	}
	return c, nil
}

// unique drops repetitions: what is wrong with one node's settings is usually wrong with all.
func unique(problems []string) (list []string) {
	for _, p := range problems {
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// adapt makes a pool of pgx's own defaults one for a node of a cluster.
func (c *Config) adapt(pool *pgxpool.Config, set settings, e endpoint, network networkConfig) {
	conn := pool.ConnConfig
	for key := range conn.RuntimeParams {
		if _, ours := options[key]; ours {
			delete(conn.RuntimeParams, key)
		}
	}
	if name := set["fallback_application_name"]; name != "" && conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = name
	}
	conn.ValidateConnect = nil // target_session_attrs: the route decides, the pool takes the node in every role
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = defaultConnectTimeout
	}
	conn.DialFunc = network.dialer(conn.ConnectTimeout).DialContext
	switch {
	case e.addr != "":
		conn.LookupFunc = lookupFixed(e.addr)
	case isAbstract(e.host):
		conn.LookupFunc = lookupFixed(e.name())
		conn.DialFunc = dialAbstract(conn.DialFunc, e)
	}
	if _, given := set["pool_max_conn_lifetime_jitter"]; !given {
		pool.MaxConnLifetimeJitter = pool.MaxConnLifetime / 10
	}
	if _, given := set["pool_health_check_period"]; !given {
		pool.HealthCheckPeriod = defaultHealthCheckPeriod
	}
}

// Copy returns a deep copy. As in pgx, TLS configurations are cloned and must not be changed after their creation.
func (c *Config) Copy() *Config {
	d := *c
	d.Nodes = slices.Clone(c.Nodes)
	for i := range d.Nodes {
		if p := d.Nodes[i].Pool; p != nil && p.ConnConfig != nil {
			d.Nodes[i].Pool = d.Nodes[i].Pool.Copy()
		}
	}
	d.warnings = slices.Clone(c.warnings)
	return &d
}

func (c *Config) setDefaults() {
	set := func(field *time.Duration, value time.Duration) {
		if *field == 0 {
			*field = value
		}
	}
	set(&c.CheckInterval, DefaultCheckInterval)
	set(&c.CheckTimeout, DefaultCheckTimeout)
	set(&c.DownTimeout, max(DefaultDownTimeout, c.CheckTimeout))
	set(&c.RecoveryInterval, min(DefaultRecoveryInterval, c.CheckInterval))
	set(&c.AcquireTimeout, DefaultAcquireTimeout)
	if c.Picker == nil {
		c.Picker = LeastLoaded()
	}
	if c.Checker == nil {
		c.Checker = StandardChecker{}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if n.Pool == nil || n.Pool.ConnConfig == nil {
			continue
		}
		if n.Pool.PingTimeout == 0 {
			n.Pool.PingTimeout = c.CheckTimeout
		}
		if c.AcquireTimeout > 0 {
			n.Pool.PingTimeout = min(n.Pool.PingTimeout, c.AcquireTimeout) // of which it is a part
		}
		if n.Name == "" {
			n.Name = net.JoinHostPort(n.Pool.ConnConfig.Host, strconv.Itoa(int(n.Pool.ConnConfig.Port)))
		}
	}
}

// problems says, after setDefaults, what makes no sense.
func (c *Config) problems() (list []string) {
	refuse := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"CheckInterval", c.CheckInterval},
		{"CheckTimeout", c.CheckTimeout},
		{"DownTimeout", c.DownTimeout},
		{"RecoveryInterval", c.RecoveryInterval},
	} {
		if d.value <= 0 {
			refuse("%s must be positive, not %v", d.name, d.value)
		}
	}
	if c.DownTimeout < c.CheckTimeout {
		refuse("DownTimeout (%v) must not be shorter than CheckTimeout (%v)", c.DownTimeout, c.CheckTimeout)
	}
	if c.RecoveryInterval > c.CheckInterval {
		refuse("RecoveryInterval (%v) must not be longer than CheckInterval (%v)", c.RecoveryInterval, c.CheckInterval)
	}
	if c.MaxReplicaLag < 0 {
		refuse("MaxReplicaLag must not be negative: %v", c.MaxReplicaLag)
	}
	if w := c.MasterAsReplicaWeight; !(w >= 0 && w <= 1) { // written so that NaN is refused too
		refuse("MasterAsReplicaWeight must be from 0 to 1, not %v", w)
	}
	if c.Target > TargetPreferReplica {
		refuse("Target: %d is not a target", c.Target)
	}
	seen := make(map[string]bool)
	for i, n := range c.Nodes {
		if n.Pool == nil || n.Pool.ConnConfig == nil {
			refuse("Nodes[%d] has no Pool", i)
			continue
		}
		if seen[n.Name] {
			refuse("Nodes: %q is named twice", n.Name)
		}
		seen[n.Name] = true
		if conn := n.Pool.ConnConfig; conn.Host == "" || conn.Port == 0 {
			refuse("Nodes[%d].Pool needs a Host and a Port, not %q and %d", i, conn.Host, conn.Port)
		}
		if slices.ContainsFunc(n.Pool.ConnConfig.Fallbacks, otherHost(n.Pool)) {
			refuse("Nodes: the pool of %q has more than one host", n.Name)
		}
		list = append(list, poolProblems(n.Pool)...)
	}
	return list
}

// doubts says, after setDefaults, what makes less sense than it seems to.
func (c *Config) doubts() (list []string) {
	if c.MaxReplicaLag > 0 && c.MaxReplicaLag < c.CheckInterval {
		list = append(list, fmt.Sprintf("MaxReplicaLag (%v) is shorter than CheckInterval (%v), by which lag is measured: what is read may be older than the limit",
			c.MaxReplicaLag, c.CheckInterval))
	}
	return list
}

// poolProblems says what pgxpool would accept, to panic or hang later.
func poolProblems(p *pgxpool.Config) (list []string) {
	refuse := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
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
