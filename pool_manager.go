package hasql

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/pghasql/hasql/internal/human"
)

// PoolManager is a pool of connections to a cluster: one pgxpool.Pool for each node, and the knowledge which node is the
// master. It is safe for concurrent use. It is the only owner of its pools.
type PoolManager struct {
	config   *Config
	log      *zap.Logger
	cluster  *cluster
	pools    []*nodePool // in the order of the configuration, as the nodes of a snapshot
	monitors []*monitor
	events   *eventQueue
	waits    [targets]waitCount

	routes [targets]Route // without options, so that Master() and its like cost nothing

	stop    context.CancelFunc
	running sync.WaitGroup // everything that ends with stop
	closing sync.Once
	pooled  chan struct{} // closed once every pool is closed
}

// New makes a [PoolManager] from a DSN, which is read as [ParseConfig] says. It returns at once, whatever state the
// nodes are in: use [PoolManager.Ready] to wait for them. Errors are those of ParseConfig. Only the values of ctx are
// used, not its end; the PoolManager must be ended with [PoolManager.Close].
func New(ctx context.Context, dsn string) (*PoolManager, error) {
	config, err := ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	return NewWithConfig(ctx, config)
}

// NewWithConfig is [New] for a configuration made by [ParseConfig] and edited, of which it keeps a copy. Its error, a
// [*ConfigError], names everything that makes no sense.
func NewWithConfig(ctx context.Context, config *Config) (*PoolManager, error) {
	config = config.Copy()
	config.setDefaults()
	problems := config.problems()
	if len(config.Nodes) == 0 {
		problems = append(problems, "Nodes is empty")
	}
	if len(problems) > 0 {
		return nil, &ConfigError{Problems: unique(problems)}
	}

	pm := &PoolManager{
		config: config,
		log:    config.Logger,
		events: newEventQueue(),
		pooled: make(chan struct{}),
	}
	for t := range pm.routes {
		pm.routes[t].init(pm, Target(t))
	}
	now := time.Now()
	nodes := make([]NodeState, len(config.Nodes))
	for i, node := range config.Nodes {
		nodes[i] = NodeState{Name: node.Name, Zone: node.Zone, Cause: errNotProbed, Since: now, index: i}
	}
	pm.cluster = newCluster(nodes, now, rules{config.MultiMaster, config.RequireMajority}, pm.apply)
	for i, node := range config.Nodes {
		// Before the pool, which changes the configuration for its own use.
		m := newMonitor(i, config, func() time.Duration { return pm.interval(i) }, pm.observe)
		pm.monitors = append(pm.monitors, m)
		pool, err := newNodePool(ctx, node, m.hint, func() { pm.unheard(i) }, m.contradict)
		if err != nil {
			for _, p := range pm.pools {
				p.pool.Close()
			}
			return nil, &ConfigError{Problems: []string{fmt.Sprintf("pool of %s: %v", node.Name, err)}}
		}
		pm.pools = append(pm.pools, pool)
		nodes[i].load = pool.load
	}
	for _, warning := range append(config.warnings, config.doubts()...) {
		pm.log.Warn(warning)
	}

	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	pm.stop = stop
	pm.running.Go(func() { pm.events.run(pm.tell, pm.log) })
	pm.running.Go(func() {
		pm.cluster.run(running)
		pm.events.close()
	})
	for _, m := range pm.monitors {
		pm.running.Go(func() { m.run(running) })
	}
	return pm, nil
}

// init makes a Route of a PoolManager as its configuration says.
func (r *Route) init(pm *PoolManager, target Target, options ...RouteOption) {
	r.pm = pm
	r.want = want{
		target:         target,
		fallbackMaster: pm.config.FallbackMaster,
		masterWeight:   pm.config.MasterAsReplicaWeight,
		maxLag:         pm.config.MaxReplicaLag,
		repeat:         pm.config.Repeat,
	}
	for _, option := range options {
		option(&r.want)
	}
}

func (pm *PoolManager) route(target Target, options []RouteOption) *Route {
	if len(options) == 0 {
		return &pm.routes[target]
	}
	r := new(Route)
	r.init(pm, target, options...)
	return r
}

// Master returns a [Route] to the master.
func (pm *PoolManager) Master(options ...RouteOption) *Route { return pm.route(TargetMaster, options) }

// Replica returns a [Route] to the replicas.
func (pm *PoolManager) Replica(options ...RouteOption) *Route {
	return pm.route(TargetReplica, options)
}

// Default returns a [Route] to [Config.Target].
func (pm *PoolManager) Default(options ...RouteOption) *Route {
	return pm.route(pm.config.Target, options)
}

// Acquire returns a connection to a replica if readOnly, else to the master. See [Route.Acquire].
func (pm *PoolManager) Acquire(ctx context.Context, readOnly bool) (*pgxpool.Conn, error) {
	if readOnly {
		return pm.AcquireReplica(ctx)
	}
	return pm.AcquireMaster(ctx)
}

// AcquireMaster returns a connection to the master. See [Route.Acquire].
func (pm *PoolManager) AcquireMaster(ctx context.Context) (*pgxpool.Conn, error) {
	return pm.routes[TargetMaster].Acquire(ctx)
}

// AcquireReplica returns a connection to a replica, or to the master where [Config.FallbackMaster] or
// [Config.MasterAsReplicaWeight] say so. See [Route.Acquire].
func (pm *PoolManager) AcquireReplica(ctx context.Context) (*pgxpool.Conn, error) {
	return pm.routes[TargetReplica].Acquire(ctx)
}

// Snapshot returns the present view of the nodes. It never blocks.
func (pm *PoolManager) Snapshot() *Snapshot { return pm.cluster.snapshot() }

// Ready blocks until there are at least so many masters and replicas, or until ctx ends. With -1 for both it waits for
// every node to be up. Other negative numbers, and more than there are nodes, are refused. It tells the present: a
// cluster that was ready once and is not now makes it wait again. Errors are [ErrClosed] and [*NoNodeError].
func (pm *PoolManager) Ready(ctx context.Context, masters, replicas int) error {
	all := masters == -1 && replicas == -1
	switch {
	case all:
	case masters < 0 || replicas < 0:
		return fmt.Errorf("hasql: Ready(%d, %d): negative counts other than -1 for both mean nothing", masters, replicas)
	case masters > len(pm.pools) || replicas > len(pm.pools) || masters+replicas > len(pm.pools):
		return fmt.Errorf("hasql: Ready(%d, %d): there are only %d nodes", masters, replicas, len(pm.pools))
	}
	return pm.await(ctx, setOf(masters, replicas), func(s *Snapshot) bool {
		m, r := s.MasterCount(), s.ReplicaCount()
		return all && m+r == len(pm.pools) || !all && m >= masters && r >= replicas
	})
}

// setOf says in an error what Ready waits for.
func setOf(masters, replicas int) string {
	switch [2]int{masters, replicas} {
	case [2]int{-1, -1}:
		return "full set of nodes"
	case [2]int{1, 0}:
		return TargetMaster.String()
	case [2]int{0, 1}:
		return TargetReplica.String()
	}
	return fmt.Sprintf("set of %s and %s", human.Count(masters, "master"), human.Count(replicas, "replica"))
}

// WaitNextCheck blocks until every node has been probed, successfully or not, by a probe that began after the call, or
// until ctx ends. It asks the monitors for these probes; calls at the same time share them. A node that does not answer
// counts as probed CheckTimeout after it was asked, also if that was before the call and it is still being asked.
// One that has just refused a connection is dialled again once that is due, within CheckInterval at most. Errors are
// [ErrClosed] and [*NoNodeError].
func (pm *PoolManager) WaitNextCheck(ctx context.Context) error {
	begun := make([]uint64, len(pm.monitors))
	for i, m := range pm.monitors {
		begun[i] = m.probes.Load()
	}
	pm.wishAll()
	return pm.await(ctx, "full round of probes", func(s *Snapshot) bool {
		for i, m := range pm.monitors {
			probe := s.nodes[i].probe
			hung := probe == begun[i] && m.asking.Load() && m.probes.Load() == begun[i]
			if probe <= begun[i] && !hung {
				return false
			}
		}
		return true
	})
}

// WaitFor blocks until done returns true for a snapshot, the present one first, or until ctx ends. done is called in the
// goroutine of the caller, with the newest snapshot: those between two calls are left out. It must not block. No probe is
// made for its sake. Errors are [ErrClosed] and [*NoNodeError].
func (pm *PoolManager) WaitFor(ctx context.Context, done func(*Snapshot) bool) error {
	return pm.await(ctx, "state of the nodes that was waited for", done)
}

// await is WaitFor with words for what was waited for.
func (pm *PoolManager) await(ctx context.Context, wanted string, done func(*Snapshot) bool) error {
	started := time.Now()
	for {
		s := pm.cluster.snapshot()
		switch {
		case s.closed:
			return ErrClosed
		case done(s):
			return nil
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return pm.noNode(ctx, wanted, started, nil)
		}
	}
}

// observe hands the cluster what a monitor has found. A node that takes writes again though it was never a standby meanwhile
// may have sessions that began read-only and stay so: they go before anybody looks for a master and finds it.
func (pm *PoolManager) observe(o observation) bool {
	if was := &pm.cluster.snapshot().nodes[o.node].Report; o.report != nil && o.report.writableAgain(was) {
		pm.pools[o.node].pool.Reset()
	}
	return pm.cluster.observe(o)
}

// interval is the time until the next probe of a node: short while there is no master, and while it is a standby that is
// about to turn to a new one. Where no master was ever seen there may be none, in a DSN of replicas alone: whoever waits for
// one all the same asks for probes himself.
func (pm *PoolManager) interval(node int) time.Duration {
	s := pm.cluster.snapshot()
	since := s.lostAt
	if n := &s.nodes[node]; since.IsZero() && n.superseded && n.Report.InRecovery {
		since = n.Since
	}
	if since.IsZero() {
		return jittered(pm.config.CheckInterval)
	}
	missing := time.Since(since)
	if s.incumbent < 0 {
		missing = max(missing, briskHunt)
	}
	return jittered(huntInterval(missing, pm.config.RecoveryInterval, pm.config.CheckInterval))
}

// unheard looks for a new master while the present one answers neither its clients nor its monitor. It may merely be slow,
// so this is no hunt yet; but if another one has been promoted, that ends the wait for this one.
func (pm *PoolManager) unheard(node int) {
	if pm.cluster.snapshot().nodes[node].Role != RoleMaster || !pm.monitors[node].asking.Load() {
		return
	}
	for i, m := range pm.monitors {
		if i != node {
			m.wish()
		}
	}
}

func (pm *PoolManager) hint(node int) { pm.monitors[node].hint() }

func (pm *PoolManager) wishAll() {
	for _, m := range pm.monitors {
		m.wish()
	}
}

// apply makes the pools follow a change of view. It runs in the cluster's goroutine, after publication: who looks
// elsewhere because of it finds the new view. Nothing here waits.
func (pm *PoolManager) apply(prev, next *Snapshot) {
	if next.closed {
		pm.end(prev)
		return
	}
	hunting, hunted := !next.lostAt.IsZero(), !prev.lostAt.IsZero()
	for i, p := range pm.pools {
		old, new := &prev.nodes[i], &next.nodes[i]
		changed := old.Role != new.Role || old.Status != new.Status
		if changed || hunting != hunted || new.probe != old.probe {
			p.traffic.view(new, hunting)
		}
		switch severed := new.Status.severed(); {
		case severed && changed:
			reason := &NodeDownError{Node: p.name, Status: new.Status, Cause: new.Cause}
			grace := time.Duration(0)
			if new.Status == StatusDown {
				grace = cutGrace
			}
			pm.cutAfter(grace, p.sever(reason), reason)
		case !severed && old.Status.severed():
			p.restore()
		case restarted(old, new):
			p.pool.Reset() // every connection of the old server is dead, and it came back between two probes
		}
		if new.Status == StatusUp && (changed || restarted(old, new)) {
			p.dials.begin()
		}
		if changed {
			p.retire()
		}
		if changed && new.Status != StatusUp {
			pm.cutAfter(0, p.givenUp(), net.ErrClosed)
		}
		if changed && new.Status == StatusUp && old.Status != StatusUp && p.atLeast > 0 {
			pm.fill(p, p.atLeast)
		}
		if new.probe != old.probe {
			p.recount()
		}
	}
	for i := range next.nodes {
		if n := &next.nodes[i]; n.superseded && !prev.nodes[i].superseded && n.Report.InRecovery {
			pm.monitors[i].wish() // which may have gone to rest before this was known
		}
	}
	if hunting && !hunted {
		pm.wishAll() // the hunt begins now, not when the others are due
		for i, p := range pm.pools {
			if next.nodes[i].Role == RoleReplica {
				pm.fill(p, max(2, p.load.inUse()+1)) // so that the first write to whoever is promoted finds one to spare
			}
		}
	}
	pm.announce(prev, next)
}

// end lets nobody wait for a pool any more. That nobody is up from now on is told to no hook: it is the caller's own doing.
func (pm *PoolManager) end(prev *Snapshot) {
	for i, p := range pm.pools {
		p.end()
		if prev.nodes[i].Status != StatusUp {
			pm.cutAfter(0, p.givenUp(), net.ErrClosed)
		}
	}
}

func (pm *PoolManager) fill(p *nodePool, goal int) {
	p.filling.Add(1)
	pm.running.Go(func() { p.fill(goal) })
}

// cutGrace is how long the connections to a node that is down are left to end by themselves. What the server sent before
// it went, an acknowledgement perhaps, may still be on its way to the reader.
const cutGrace = 100 * time.Millisecond

// cutAfter cuts sockets after a while, or when the cluster is closed. It does not wait itself, nor for the sockets: to
// close one of the user's making may take its time.
func (pm *PoolManager) cutAfter(grace time.Duration, sockets []*socket, reason error) {
	if len(sockets) == 0 {
		return
	}
	pm.running.Go(func() {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-pm.cluster.done:
		}
		cut(sockets, reason)
	})
}

// ForgetCluster forgets what was learnt of the nodes, as a restart of the process would: roles, timelines, the identity of the
// cluster. Idle connections are closed, those in use when they are released. Then the nodes are asked anew, and acquires wait
// until they have answered. ForgetCluster itself does not wait.
//
// It is for a cluster that was rolled back on purpose, to a backup or to the master before the last promotion: its nodes are
// stale or foreign, for nobody on this side can tell that from an old master that has come back. That is the danger:
// until the newest master answers, one that was superseded is taken for it. So make sure that no such node runs.
func (pm *PoolManager) ForgetCluster() {
	pm.log.Info("the cluster was forgotten: nothing is known of the nodes until they are asked anew")
	pm.cluster.forget()
	for _, p := range pm.pools {
		p.pool.Reset()
	}
	pm.wishAll()
}

func restarted(old, new *NodeState) bool {
	return !old.Report.StartTime.IsZero() && !new.Report.StartTime.IsZero() && !old.Report.StartTime.Equal(new.Report.StartTime)
}

// Close ends the PoolManager: waiting acquires and new ones fail with [ErrClosed], monitors stop, idle connections are
// closed, and those in use as soon as they are released. If ctx ends before all are, the rest is cut and an error says
// so. Close may be called again, also at the same time; each call waits for the end.
func (pm *PoolManager) Close(ctx context.Context) error {
	pm.closing.Do(func() {
		pm.stop()
		go func() {
			defer close(pm.pooled)
			<-pm.cluster.done // the terminal snapshot is out: nobody starts to wait for a pool any more
			var all sync.WaitGroup
			for _, p := range pm.pools {
				all.Go(p.pool.Close)
			}
			all.Wait()
			pm.running.Wait()
		}()
	})
	select {
	case <-pm.pooled:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-pm.pooled: // both are true, and this is the better news
		return nil
	default:
	}
	inUse := 0
	for _, p := range pm.pools {
		inUse += p.load.inUse()
		cut(p.open(), ErrClosed)
	}
	if inUse == 0 {
		return fmt.Errorf("hasql: Close ended before a Checker, a hook or a server did: %w", context.Cause(ctx))
	}
	return fmt.Errorf("hasql: closed with %d connections still in use, which were cut: %w", inUse, context.Cause(ctx))
}
