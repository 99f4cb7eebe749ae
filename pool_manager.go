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
	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
)

// PoolManager is a pool of connections to a cluster. It has one pgxpool.Pool for each node, and knows which node is the
// master. It is safe for concurrent use. It alone owns its pools.
type PoolManager struct {
	config   *Config
	log      *zap.Logger
	cluster  *clusterStore
	reporter *reporter
	finder   *finder // nil without a Discoverer

	routes [targets]Route // without options, so that Master() and its like cost nothing

	background context.Context // of all background work
	stop       context.CancelFunc
	running    sync.WaitGroup // all goroutines that end with stop
	closing    sync.Once
	operating  sync.Mutex    // held while an operator's order is decided
	allClosed  chan struct{} // closed once every pool is closed
}

// New makes a [PoolManager] from a DSN, which [ParseConfig] reads. It returns at once, whatever state the nodes are in:
// use [PoolManager.Ready] to wait for them. Errors are those of ParseConfig. Only the values of ctx are used, not its
// end. The caller must end the PoolManager with [PoolManager.Close].
func New(ctx context.Context, dsn string) (*PoolManager, error) {
	config, err := ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	return NewWithConfig(ctx, config)
}

// NewWithConfig is [New] for a configuration that [ParseConfig] has made and the caller may have edited. It keeps a copy
// of config. Its error, a [*ConfigError], names everything that is invalid.
func NewWithConfig(ctx context.Context, config *Config) (*PoolManager, error) {
	config = config.Copy()
	config.setDefaults()
	config.Logger = config.Logger.Named("hasql")
	problems := config.problems()
	if len(config.Nodes) == 0 {
		problems = append(problems, "Nodes is empty")
	}
	if len(problems) > 0 {
		return nil, &ConfigError{Problems: unique(problems)}
	}
	servers, warnings := config.startNodes(), append(config.warnings, config.warnAbout()...)

	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	cluster := newCluster(time.Now(), config.cluster())
	pm := &PoolManager{
		config:     config,
		log:        config.Logger,
		cluster:    cluster,
		reporter:   newReporter(config.Logger, config.Hooks, &cluster.counts),
		background: running,
		stop:       stop,
		allClosed:  make(chan struct{}),
	}
	for t := range pm.routes {
		pm.routes[t].init(pm.cluster, config, &pm.cluster.counts.waits[t], Target(t))
	}
	nodes, err := newNodes(ctx, servers)
	if err != nil {
		stop()
		return nil, &ConfigError{Problems: []string{err.Error()}}
	}
	if config.Discoverer != nil {
		pm.finder = newFinder(pm)
	}
	for _, warning := range warnings {
		pm.log.Warn(warning)
	}
	pm.running.Go(func() { pm.reporter.run() })
	prev := pm.cluster.snapshot()
	if next := reduce(prev, membership{asConfigured(nodes), prev.at}, pm.cluster.settings.rules); next != prev {
		pm.cluster.publish(prev, next)
		pm.apply(prev, next)
	}
	pm.running.Go(func() {
		for prev, next := range pm.cluster.run(running) {
			pm.apply(prev, next)
		}
		pm.reporter.close()
	})
	if pm.finder != nil {
		pm.running.Go(func() { pm.finder.run(running) })
	}
	return pm, nil
}

func (pm *PoolManager) route(target Target, options []RouteOption) *Route {
	if len(options) == 0 {
		return &pm.routes[target]
	}
	r := new(Route)
	r.init(pm.cluster, pm.config, &pm.cluster.counts.waits[target], target, options...)
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

// AcquireReplica returns a connection to a replica, or to the master if [Config.FallbackMaster] or
// [Config.MasterAsReplicaWeight] allow it. See [Route.Acquire].
func (pm *PoolManager) AcquireReplica(ctx context.Context) (*pgxpool.Conn, error) {
	return pm.routes[TargetReplica].Acquire(ctx)
}

// Snapshot returns the present view of the nodes. It never blocks.
func (pm *PoolManager) Snapshot() *Snapshot { return pm.cluster.snapshot() }

// Ready blocks until at least the given numbers of masters and replicas are up, or until ctx ends. With -1 for both it
// waits until every node is up, and there is at least one. Other negative numbers are refused. Numbers above the number
// of nodes are refused too, unless a [Discoverer] may find more nodes. Ready looks at the present: if a cluster was ready
// once and is not now, Ready waits again. Errors are [ErrClosed] and [*NoNodeError], which says when the wait ends before ctx.
func (pm *PoolManager) Ready(ctx context.Context, masters, replicas int) error {
	all := masters == -1 && replicas == -1
	nodes := pm.cluster.snapshot().Len()
	switch {
	case all:
	case masters < 0 || replicas < 0:
		return fmt.Errorf("hasql: Ready(%d, %d): counts must not be negative, except -1 for both", masters, replicas)
	case pm.finder == nil && (masters > nodes || replicas > nodes || masters+replicas > nodes):
		return fmt.Errorf("hasql: Ready(%d, %d): there are only %d nodes", masters, replicas, nodes)
	}
	started, wanted, refused := time.Now(), setOf(masters, replicas), (*Snapshot)(nil)
	err := pm.cluster.await(ctx, wanted, func(s *Snapshot) bool {
		if s.refused {
			refused = s
		}
		return s.refused || all && s.complete() || !all && s.MasterCount() >= masters && s.ReplicaCount() >= replicas
	})
	if refused != nil && masters+replicas != 0 {
		return pm.cluster.noNode(ctx, refused, wanted, started, nil)
	}
	return err
}

// setOf names in an error what Ready waits for.
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
// until ctx ends. It asks the monitors for these probes, and simultaneous calls share them. A node that does not answer
// counts as probed once its probe has lasted CheckTimeout, even if that probe began before the call. A node that has just
// refused a connection is dialled again when its next dial is due, within CheckInterval at most. Errors are [ErrClosed]
// and [*NoNodeError].
func (pm *PoolManager) WaitNextCheck(ctx context.Context) error {
	begun := make(map[*node]uint64)
	for n := range pm.cluster.snapshot().members() {
		begun[n] = n.checks.begun.Load()
		n.checks.checkNow()
	}
	return pm.cluster.await(ctx, "full round of probes", func(s *Snapshot) bool {
		for i := range s.nodes {
			n := &s.nodes[i]
			before, asked := begun[n.node]
			checks := n.node.checks
			hung := n.probe == before && checks.underWay.Load() && checks.begun.Load() == before
			if asked && n.probe <= before && !hung {
				return false
			}
		}
		return true
	})
}

// WaitFor blocks until done returns true for a snapshot, or until ctx ends. It begins with the present snapshot. done
// runs in the goroutine of the caller and gets the newest snapshot each time, so it may miss snapshots between two calls.
// It must not block. WaitFor asks for no probes. Errors are [ErrClosed] and [*NoNodeError].
func (pm *PoolManager) WaitFor(ctx context.Context, done func(*Snapshot) bool) error {
	return pm.cluster.await(ctx, "snapshot that satisfies WaitFor", done)
}

// apply makes the nodes follow a change of the snapshot. It runs in the goroutine of clusterStore.run, after the snapshot
// was published, so an acquire that it wakes finds the new snapshot. It does not wait for anything.
func (pm *PoolManager) apply(prev, next *Snapshot) {
	if next.closed {
		pm.end(prev)
		return
	}
	for t := range transitions(prev, next) {
		switch {
		case t.joined():
			pm.join(t.new.node)
		case t.left():
			pm.leave(t.old.node)
		default:
			pm.follow(t, prev.hunting(), next.hunting())
		}
	}
	if next.hunting() && !prev.hunting() {
		pm.beginHunt(next)
		pm.finder.hurry()
	}
	pm.reporter.announce(prev, next)
}

// join starts the monitor of a new node.
func (pm *PoolManager) join(n *node) {
	var ctx context.Context
	ctx, n.stop = context.WithCancel(pm.background)
	m := newMonitor(n, pm.cluster, pm.config)
	pm.running.Go(func() { m.run(ctx) })
}

// leave ends a node of which nothing is in use any more.
func (pm *PoolManager) leave(n *node) {
	n.stop()
	n.pool.End()
	pm.cutAfter(0, append(n.pool.PgxOnlySockets(), n.pool.GuestSockets()...), net.ErrClosed)
	pm.running.Go(n.pool.Close)
}

// follow makes the pool of a node follow the node's new state.
func (pm *PoolManager) follow(t transition, hunted, hunting bool) {
	p, old, new := t.new.node.pool, t.old, t.new
	if t.roleOrStatusChanged() || hunting != hunted || t.probed() {
		p.SetNodeStatus(nodeStatusOf(new, hunting))
	}
	switch fenced := new.Status.fenced(); {
	case fenced && t.roleOrStatusChanged():
		reason := &NodeDownError{Node: new.Name, Status: new.Status, Cause: new.Cause}
		grace := time.Duration(0)
		if new.Status == StatusDown {
			grace = cutGrace
		}
		pm.cutAfter(grace, p.Fence(reason), reason)
	case !fenced && old.Status.fenced():
		p.Unfence()
	case t.restarted():
		p.Reset() // the server restarted between two probes, so all its old connections are dead
	case t.roleOrStatusChanged() && new.Status == StatusBanned:
		p.Reset() // an operator wants the node to be idle, or the node is about to leave
	}
	if new.Status.reachable() && (t.roleOrStatusChanged() || t.restarted()) {
		p.ResetDials()
	}
	if t.roleOrStatusChanged() {
		p.Renew()
	}
	if t.roleOrStatusChanged() && !new.Status.reachable() {
		pm.cutAfter(0, p.PgxOnlySockets(), net.ErrClosed)
		if old.Status.reachable() {
			pm.finder.hurry()
		}
	}
	if t.roleOrStatusChanged() && new.Status == StatusUp && old.Status != StatusUp && p.MinConns() > 0 {
		pm.fill(p, p.MinConns())
	}
	if t.probed() {
		p.Recount()
	}
	if new.superseded && !old.superseded && new.Report.InRecovery {
		new.node.checks.checkNow() // the monitor may have begun its pause before this was known
	}
}

// beginHunt begins to look for a master at once, without waiting for the next regular probes.
func (pm *PoolManager) beginHunt(s *Snapshot) {
	for i := range s.nodes {
		n := &s.nodes[i]
		n.node.checks.checkNow()
		if n.Role == RoleReplica {
			pm.fill(n.node.pool, max(2, n.node.load.Demand()+1)) // so that the first write to the promoted node finds an idle connection
		}
	}
}

// end wakes all acquires that wait for a pool. No hook is called for the nodes that are no longer up from now on, because
// the caller closed the PoolManager.
func (pm *PoolManager) end(prev *Snapshot) {
	for i := range prev.nodes {
		n := &prev.nodes[i]
		n.node.pool.End()
		if !n.Status.reachable() {
			pm.cutAfter(0, n.node.pool.PgxOnlySockets(), net.ErrClosed)
		}
	}
}

// nodeStatusOf returns what the node's pool has to know of the node's state.
func nodeStatusOf(n *NodeState, hunting bool) nodepool.NodeStatus {
	return nodepool.NodeStatus{
		Master:    n.Role == RoleMaster,
		Standby:   n.Report.InRecovery,
		Reachable: n.Status.reachable(),
		Pooler:    n.Report.Pooler,
		Hunting:   hunting,
	}
}

func (pm *PoolManager) fill(p *nodepool.Pool, goal int) { pm.running.Go(p.FillTask(goal)) }

// cutGrace is how long the connections to a node that is down may end by themselves before they are cut. What the server
// sent before it went, an acknowledgement for example, may still be on its way to the reader.
const cutGrace = 100 * time.Millisecond

// cutAfter cuts sockets after grace, or when the cluster is closed. It returns at once. It does not wait for the sockets
// to close, because closing a connection of the user's DialFunc may take long.
func (pm *PoolManager) cutAfter(grace time.Duration, sockets []*nodepool.Socket, reason error) {
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
		cut := nodepool.Cut(sockets, reason)
		if pgerr.Is[*NodeDownError](reason) {
			pm.cluster.counts.cut.Add(int64(cut))
		}
	})
}

// ForgetCluster forgets what was learnt of the nodes, as a restart of the process would: roles, timelines, the identity of the
// cluster, how many nodes a majority is counted of. Idle connections are closed, those in use when they are released. Then the nodes are asked anew, and acquires wait
// until they have answered. ForgetCluster itself does not wait.
//
// Use it after the cluster was rolled back on purpose, to a backup or to the master before the last promotion. Then its
// nodes are stale or foreign, because a client cannot tell them from an old master that has come back. There is a danger:
// until the newest master answers, a superseded master may be taken for the master. So make sure that no superseded
// master runs.
func (pm *PoolManager) ForgetCluster() {
	pm.log.Info("cluster forgotten: the state of every node is unknown until its next probe")
	pm.cluster.tell(forgetOrder{time.Now()})
	for n := range pm.cluster.snapshot().members() {
		n.pool.Reset()
		n.checks.checkNow()
	}
}

// Close ends the PoolManager. Waiting and new acquires fail with [ErrClosed], and monitors stop. Idle connections are
// closed at once, connections in use when they are released. Close also closes the pools of [Route.Pool], and waits for
// the user's own connections and those of a sql.DB, so close a sql.DB first. If ctx ends before all connections are
// closed, Close cuts the rest and its error says so. Close may be called again, also concurrently; each call waits for
// the end.
func (pm *PoolManager) Close(ctx context.Context) error {
	pm.closing.Do(func() {
		pm.stop()
		go func() {
			defer close(pm.allClosed)
			<-pm.cluster.done // the terminal snapshot is published: no acquire begins to wait for a pool any more
			var all sync.WaitGroup
			for _, p := range pm.cluster.followers.all() {
				all.Go(p.Close)
			}
			for n := range pm.cluster.snapshot().members() {
				all.Go(n.pool.Close)
			}
			all.Wait()
			pm.running.Wait()
		}()
	})
	select {
	case <-pm.allClosed:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-pm.allClosed: // ctx has ended too, but everything is closed
		return nil
	default:
	}
	inUse := 0
	for n := range pm.cluster.snapshot().members() {
		inUse += n.load.InUse()
		nodepool.Cut(n.pool.Sockets(), ErrClosed)
	}
	if inUse == 0 {
		return fmt.Errorf("hasql: Close gave up waiting for a Checker, a Discoverer, a hook or a server: %w", context.Cause(ctx))
	}
	return fmt.Errorf("hasql: closed; %d connections were still in use and were cut: %w", inUse, context.Cause(ctx))
}
