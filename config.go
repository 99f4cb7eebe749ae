package hasql

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/pghasql/hasql/discovery"
	"github.com/pghasql/hasql/internal/dsn"
)

// Defaults of [Config].
const (
	DefaultCheckInterval    = time.Second
	DefaultCheckTimeout     = 500 * time.Millisecond
	DefaultDownTimeout      = 3 * time.Second
	DefaultRecoveryInterval = 10 * time.Millisecond
	DefaultAcquireTimeout   = 30 * time.Second

	DefaultDiscoveryInterval = 30 * time.Second

	DefaultZoneSpillover = 0.8
)

// Config contains the settings of a [PoolManager]. Make one with [ParseConfig], edit it, and pass it to [NewWithConfig],
// which takes a deep copy. A zero duration means the default.
type Config struct {
	// Nodes are the servers of the cluster in the order of the DSN, each once. With a Discoverer they are the nodes of
	// the start.
	Nodes []NodeConfig

	// Discoverer says which nodes the cluster has at the moment: hasql_discovery and hasql_patroni. The default, nil, is
	// that Nodes are the nodes, until [PoolManager.SetNodes] says otherwise. It is asked by New, which does not wait for the
	// answer, every DiscoveryInterval, and within 0.1 s when the master is missing or a node is lost, then less and less often
	// while that lasts. One question follows another after a second at the least, and may take 30 s, or DiscoveryInterval if
	// that is longer. Where it is a [Watcher], it is watched too.
	//
	// A good answer has the effect of SetNodes. Another one, also one without nodes, changes nothing: the log, a hook and
	// [PoolManager.Stat] tell of it. A node that was found is like the one of Nodes with the same host and port, or else like
	// the first one, with all that was edited there. Its own are its host, port and address, the name that TLS compares, and
	// the password of the password file.
	//
	// If a [discovery.DNSName] or a [discovery.SRVName] asks for the host of one of Nodes, that is the name of a whole cluster and
	// no node: it is never dialled, and there is no node until there is an answer.
	Discoverer Discoverer

	// DiscoveryInterval is the time between two questions to the Discoverer, ±10 % at random. The default is 30 s.
	DiscoveryInterval time.Duration

	// Target is the target of [PoolManager.Default]. The DSN sets it with target_session_attrs. The default is
	// [TargetAny].
	Target Target

	// CheckInterval is the time between two probes of a healthy node, ±10 % at random. The default is 1 s. A role that
	// changes without an error on any connection is noticed within that time.
	CheckInterval time.Duration

	// CheckTimeout limits one probe, connecting included. If the node has not answered by then, it is suspect and gets no
	// new acquires. The default is 500 ms.
	CheckTimeout time.Duration

	// DownTimeout is how long a node may be silent before it is down and its connections are cut. The default is 3 s. It
	// must not be shorter than CheckTimeout. A node that refuses connections is down at once.
	DownTimeout time.Duration

	// RecoveryInterval is the time between two probes of each node while no master is known. The default is 10 ms. It
	// becomes 5 times as long after 5 s without a master, and 25 times as long after 30 s, or at once if no master was
	// ever seen. It is never longer than CheckInterval. If a probe needs a new connection, the time doubles with each
	// dial, up to 25 times RecoveryInterval. A node that refuses the login is dialled once per CheckInterval.
	RecoveryInterval time.Duration

	// AcquireTimeout limits one acquire: waiting for a node that fits and getting a connection to it. The default is 30
	// s. The caller's context may end the acquire sooner. If AcquireTimeout is negative, only the context ends it.
	AcquireTimeout time.Duration

	// FallbackMaster lets reads go to the master while no replica fits. Otherwise reads wait for a replica.
	FallbackMaster bool

	// MasterAsReplicaWeight is the share of reads that the master takes while replicas fit, from 0 (the default) to 1.
	// While no replica fits, the share has no effect: FallbackMaster alone decides whether the master takes the reads or
	// they wait. With 1 the master takes all reads, whether replicas fit or not.
	MasterAsReplicaWeight float64
	// ZoneSpillover is the share of the connections to preferred nodes that may be lent before other nodes are used too, see
	// [WithZone] and [WithSynchronous]. It is above 0 and at most 1; the default is 0.8. With 1 other nodes are used only
	// while no preferred one fits, and by acquires that have waited for 20 ms.
	ZoneSpillover float64

	// MaxReplicaLag leaves out replicas that are known to be further behind than this, and replicas that do not report
	// their position. The default, 0, allows any lag. Probes measure the lag, so a read may see data that is older by
	// CheckInterval. New logs a warning for a limit below CheckInterval.
	//
	// While a known master does not answer, it may write what a replica lacks. So the replica counts as behind for as
	// long as the master does not answer, but for no longer than the age of the replica's last transaction. If no master
	// was known yet, replicas are compared with the replica that has the most. The lag of that replica is unknown, and it
	// is used.
	MaxReplicaLag time.Duration

	// MultiMaster trusts every writable node. It is for products in which several nodes accept writes at the same time.
	// With the default, false, only the writable node on the highest timeline is the master, and the others are fenced.
	// With MultiMaster each node may have its own system identifier, so no node is foreign, and lag is measured against
	// one of the masters.
	MultiMaster bool

	// RequireMajority trusts a master only while more than half of the nodes answer. It is for clients that may be cut
	// off together with a superseded master before they have seen the new one. The price: a client that sees a master but
	// too few other nodes cannot write. The default is false.
	RequireMajority bool

	// Repeat lets a [Route] run a statement again if a server has undone it because the server shuts down or restarts.
	// [ParseConfig] sets Repeat, unless the DSN contains hasql_repeat=false. The zero value is off.
	Repeat bool

	// TraceCommits lets [Route.InTx] send what tells the outcome of a transaction whose COMMIT is not answered.
	// [ParseConfig] sets it, unless the DSN says hasql_trace_commits=false. The zero value is off.
	TraceCommits bool

	// Picker chooses one of the nodes that fit. The default, nil, is [LeastLoaded].
	Picker Picker

	// Checker asks a node for its role. The default, nil, is [StandardChecker].
	Checker Checker

	// Logger receives Info for a change of role, and Debug for each probe. It receives Warn for a node that becomes unusable, or
	// is unusable from the start; every 10 s while there is no master, with the state of every node; and once after each outage,
	// with its length and what it did to acquires, connections and statements. The entries have the logger name hasql. The
	// default, nil, logs nothing. Package hasqlslog makes such a Logger of a *slog.Logger.
	Logger *zap.Logger

	// Hooks are called when a node, the master or discovery changes.
	Hooks Hooks

	warnings []string // of ParseConfig, logged by New
	source   *dsn.DSN // that ParseConfig read; nil in a Config that it has not made
}

// EachPool calls edit with the configuration of the pool of each node, for what all nodes have in common: hooks, tracers, types.
// Nodes that a Discoverer finds take after these.
func (c *Config) EachPool(edit func(*pgxpool.Config)) {
	for i := range c.Nodes {
		edit(c.Nodes[i].Pool)
	}
}

// discovererProblem says why there can be no discovery, "" if there can.
func (c *Config) discovererProblem() string {
	if c.Discoverer == nil {
		return ""
	}
	if c.source == nil {
		return "Discoverer needs a Config that ParseConfig has made: passwords and TLS names of new nodes are of its DSN"
	}
	if v, ok := c.Discoverer.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return strings.TrimPrefix(err.Error(), "hasql: ")
		}
	}
	return ""
}

// startNodes are those of Nodes that are nodes: not the names of whole clusters that the Discoverer asks for. Each dial of such a
// name may lead to another node.
func (c *Config) startNodes() []NodeConfig {
	name := ""
	switch d := c.Discoverer.(type) {
	case *discovery.DNSName:
		name = d.Host
	case *discovery.SRVName:
		name = d.Domain
	}
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n NodeConfig) bool {
		return name != "" && !n.addr.IsValid() && strings.EqualFold(n.Pool.ConnConfig.Host, strings.TrimSuffix(name, "."))
	})
}

// cluster returns the settings that the clusterStore uses.
func (c *Config) cluster() storeSettings {
	return storeSettings{
		rules:          ruleSettings{c.MultiMaster, c.RequireMajority, c.DownTimeout},
		recentProbeAge: min(max(requestInterval, c.RecoveryInterval), c.CheckInterval),
	}
}

// unique drops repetitions. A problem in the settings of one node is usually a problem of all nodes.
func unique(problems []string) (list []string) {
	for _, p := range problems {
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// Copy returns a deep copy. As in pgx, TLS configurations are cloned and must not be changed after their creation.
func (c *Config) Copy() *Config {
	d := *c
	d.Nodes = slices.Clone(c.Nodes)
	for i := range d.Nodes {
		if p := d.Nodes[i].Pool; p != nil && p.ConnConfig != nil {
			d.Nodes[i].Pool = d.Nodes[i].Pool.Copy()
		}
		d.Nodes[i].Tags = maps.Clone(d.Nodes[i].Tags)
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
	set(&c.DiscoveryInterval, DefaultDiscoveryInterval)
	if c.ZoneSpillover == 0 {
		c.ZoneSpillover = DefaultZoneSpillover
	}
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
			n.Pool.PingTimeout = min(n.Pool.PingTimeout, c.AcquireTimeout) // a ping is a part of an acquire
		}
		if n.Name == "" {
			n.Name = net.JoinHostPort(n.Pool.ConnConfig.Host, strconv.Itoa(int(n.Pool.ConnConfig.Port)))
		}
	}
}

// problems returns everything that is invalid. It must be called after setDefaults.
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
		{"DiscoveryInterval", c.DiscoveryInterval},
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
	if s := c.ZoneSpillover; !(s > 0 && s <= 1) {
		refuse("ZoneSpillover must be above 0 and at most 1, not %v", s)
	}
	if problem := c.discovererProblem(); problem != "" {
		refuse("%s", problem)
	}
	if c.Target > TargetPreferReplica {
		refuse("Target must be one of the Target constants, not %d", c.Target)
	}
	seen := make(map[string]bool)
	for i, n := range c.Nodes {
		if n.Pool == nil || n.Pool.ConnConfig == nil {
			refuse("Nodes[%d] has no Pool", i)
			continue
		}
		if seen[n.Name] {
			refuse("Nodes: two nodes have the name %q", n.Name)
		}
		seen[n.Name] = true
		if conn := n.Pool.ConnConfig; conn.Host == "" || conn.Port == 0 {
			refuse("Nodes[%d].Pool needs a Host and a Port, not %q and %d", i, conn.Host, conn.Port)
		}
		list = append(list, dsn.PoolProblems(n.Name, n.Pool)...)
	}
	return list
}

// warnAbout returns a warning for each valid setting that does not do what it seems to do. It must be called after
// setDefaults.
func (c *Config) warnAbout() (list []string) {
	if c.MaxReplicaLag > 0 && c.MaxReplicaLag < c.CheckInterval {
		list = append(list, fmt.Sprintf("MaxReplicaLag (%v) is shorter than CheckInterval (%v): lag is measured once per CheckInterval, so a read may see data older than the limit",
			c.MaxReplicaLag, c.CheckInterval))
	}
	return list
}
