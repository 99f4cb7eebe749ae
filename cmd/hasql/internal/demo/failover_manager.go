package demo

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/workload"
)

const (
	noticeTime = 300 * time.Millisecond // from the fault to the promotion, as if a failover manager had to notice it
	electTime  = 200 * time.Millisecond // the part of noticeTime for electing the next master
	actLimit   = 50 * time.Second       // time limit of one fault or repair
)

// health is what the demo has done to a node.
type health int

const (
	healthy health = iota
	crashed
	frozen
)

// failoverManager breaks the cluster, and does what a failover manager does: it promotes replicas, makes the others follow, and
// brings nodes back. It runs one action at a time.
type failoverManager struct {
	cluster  *pgcluster.Cluster
	nodes    []*pgcluster.Node
	names    []string
	screen   *screen
	recorder *recorder

	acting sync.Mutex     // held while an action runs
	begun  sync.WaitGroup // actions that the page began

	mu         sync.Mutex
	busy       string // the action that runs
	master     int
	health     []health
	superseded []bool // a node that was the master when another took over; it must not come back without a repair
}

func newFailoverManager(cluster *pgcluster.Cluster, names []string, s *screen, r *recorder) *failoverManager {
	nodes := cluster.Nodes()
	return &failoverManager{
		cluster: cluster, nodes: nodes, names: names, screen: s, recorder: r,
		health: make([]health, len(nodes)), superseded: make([]bool, len(nodes)),
	}
}

func (m *failoverManager) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// present returns the current master and whether it is healthy.
func (m *failoverManager) present() (master int, well bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.master, m.health[m.master] == healthy
}

// replicas returns the healthy replicas.
func (m *failoverManager) replicas() []*pgcluster.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.replicasLocked()
}

func (m *failoverManager) replicasLocked() (list []*pgcluster.Node) {
	for i, h := range m.health {
		if i != m.master && h == healthy && !m.superseded[i] {
			list = append(list, m.nodes[i])
		}
	}
	return list
}

// recordFault records and logs a fault that is about to happen to a node.
func (m *failoverManager) recordFault(node int, to health, kind, text string) time.Time {
	at := time.Now()
	m.set(func() { m.health[node] = to })
	m.recorder.fault(kind, node, m.screen.since(at))
	m.screen.event(at, eventFault, m.names[node]+text)
	return at
}

// crash kills all processes of a node, as a power loss does. If the node is the master, a replica takes over.
func (m *failoverManager) crash(ctx context.Context, node int) error {
	if err := m.doWithout(ctx, node); err != nil {
		return err
	}
	at := m.recordFault(node, crashed, "crash", " killed: kill -9 of all its processes")
	if err := m.nodes[node].Kill(); err != nil {
		return err
	}
	return m.replace(ctx, node, at.Add(noticeTime))
}

// freeze stops all processes of a node, as a machine that hangs does. If the node is the master, a replica takes over.
func (m *failoverManager) freeze(ctx context.Context, node int) error {
	if err := m.doWithout(ctx, node); err != nil {
		return err
	}
	at := m.recordFault(node, frozen, "freeze", " frozen: its connections stay open, and nothing answers")
	if err := m.nodes[node].Freeze(); err != nil {
		return err
	}
	return m.replace(ctx, node, at.Add(noticeTime))
}

// thaw lets a frozen node go on. A master that was replaced meanwhile does not know that.
func (m *failoverManager) thaw(ctx context.Context, node int) error {
	m.set(func() { m.health[node] = healthy })
	text := " thawed"
	if m.superseded[node] {
		text = " thawed: it still takes itself for the master"
	}
	m.screen.event(time.Now(), eventRepair, m.names[node]+text)
	if err := m.nodes[node].Thaw(); err != nil {
		return err
	}
	if _, well := m.present(); m.superseded[node] || !well {
		return nil
	}
	if err := m.reattach(ctx); err != nil {
		return err
	}
	return m.synchronize(ctx)
}

// switchover stops the master with a fast stop and promotes a replica. The old master comes back as a replica.
func (m *failoverManager) switchover(ctx context.Context) error {
	old, _ := m.present()
	at := m.recordFault(old, crashed, "switchover", " shut down (fast shutdown), for a switchover")
	if err := m.nodes[old].Stop(ctx, pgcluster.StopFast); err != nil {
		return err
	}
	if err := m.replace(ctx, old, at); err != nil {
		return err
	}
	return m.repair(ctx, old)
}

// repair makes a node work again. The master becomes the master again, any other node a replica of the master.
func (m *failoverManager) repair(ctx context.Context, node int) error {
	master, _ := m.present()
	if node == master && m.health[node] == frozen {
		return m.thaw(ctx, node)
	}
	if node == master {
		m.screen.event(time.Now(), eventRepair, m.names[node]+" starts again, as the master that it was")
		if err := m.nodes[node].Start(ctx); err != nil {
			return err
		}
		if err := m.reattach(ctx); err != nil {
			return err
		}
	} else {
		m.screen.event(time.Now(), eventRepair, m.names[node]+" rejoins as a replica")
		if err := m.nodes[node].Rejoin(ctx, m.nodes[master]); err != nil {
			return err
		}
		m.screen.echo(time.Now(), eventRepair, m.names[node]+" streams from "+m.names[master])
	}
	m.set(func() { m.health[node], m.superseded[node] = healthy, false })
	return m.synchronize(ctx)
}

// reattach makes the replicas follow the master again. An election that came to nothing has detached them.
func (m *failoverManager) reattach(ctx context.Context) error {
	master, _ := m.present()
	for _, replica := range m.replicas() {
		if err := replica.Follow(ctx, m.nodes[master]); err != nil {
			return err
		}
	}
	return nil
}

// synchronize makes commits wait for a replica if there is a healthy one, as Patroni's synchronous_mode does.
func (m *failoverManager) synchronize(ctx context.Context) error {
	master, _ := m.present()
	return m.cluster.SetSynchronous(ctx, m.nodes[master], min(1, len(m.replicas())))
}

// doWithout makes commits stop waiting for the last replica before that replica gets a fault.
func (m *failoverManager) doWithout(ctx context.Context, node int) error {
	replicas := m.replicas()
	master, well := m.present()
	if !well || len(replicas) != 1 || replicas[0] != m.nodes[node] {
		return nil
	}
	return m.cluster.SetSynchronous(ctx, m.nodes[master], 0)
}

// replace does what a failover manager does when the master is gone: it elects the replica that has received the most WAL,
// promotes it at the given time, and makes the others follow it. If old is not the master, it does nothing.
func (m *failoverManager) replace(ctx context.Context, old int, at time.Time) error {
	if master, _ := m.present(); master != old {
		return nil
	}
	candidates := m.replicas()
	if len(candidates) == 0 {
		m.screen.event(time.Now(), eventError, "no replica is left to take over: repair "+m.names[old])
		return nil
	}
	if err := workload.Sleep(ctx, time.Until(at.Add(-electTime))); err != nil {
		return err
	}
	ranked, err := pgcluster.Elect(ctx, candidates...)
	if err != nil {
		return err
	}
	master, others := ranked[0], ranked[1:]
	// The other replicas do not stream from the next master yet, so commits must not wait for them.
	if err := m.cluster.SetSynchronous(ctx, master, 0); err != nil {
		return err
	}
	if err := workload.Sleep(ctx, time.Until(at)); err != nil {
		return err
	}
	next := slices.Index(m.nodes, master)
	m.screen.event(time.Now(), eventRepair, m.names[next]+" promoted, as a failover manager would: it has received the most")
	if err := master.TakeOver(ctx, others...); err != nil {
		return err
	}
	m.set(func() { m.master, m.superseded[old] = next, true })
	return m.awaitReplicas(ctx)
}

// awaitReplicas waits until all healthy replicas stream from the master, then makes commits wait for one of them.
func (m *failoverManager) awaitReplicas(ctx context.Context) error {
	master, _ := m.present()
	for _, replica := range m.replicas() {
		if err := replica.WaitStreaming(ctx, m.nodes[master]); err != nil {
			return err
		}
	}
	return m.synchronize(ctx)
}
