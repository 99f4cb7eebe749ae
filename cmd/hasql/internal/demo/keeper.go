package demo

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

const (
	noticeTime = 300 * time.Millisecond // from the fault to the promotion, as if a failover manager had to notice it
	chooseTime = 100 * time.Millisecond // the part of noticeTime for choosing the next master
	actLimit   = 50 * time.Second       // time limit of one fault or repair
)

// health is what the demo has done to a node.
type health int

const (
	healthy health = iota
	crashed
	frozen
)

// keeper breaks the cluster and plays the failover manager: it promotes, re-points and repairs nodes. It runs one action at a
// time.
type keeper struct {
	cluster *pgcluster.Cluster
	nodes   []*pgcluster.Node
	names   []string
	screen  *screen
	book    *book

	acting sync.Mutex     // held while an action runs
	begun  sync.WaitGroup // actions that the page began

	mu         sync.Mutex
	busy       string // the action that runs
	master     int
	health     []health
	superseded []bool // a node that was the master when another took over; it must not come back without a repair
}

func newKeeper(cluster *pgcluster.Cluster, names []string, s *screen, b *book) *keeper {
	nodes := cluster.Nodes()
	return &keeper{
		cluster: cluster, nodes: nodes, names: names, screen: s, book: b,
		health: make([]health, len(nodes)), superseded: make([]bool, len(nodes)),
	}
}

func (k *keeper) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// present returns the current master and whether it is healthy.
func (k *keeper) present() (master int, well bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.master, k.health[k.master] == healthy
}

// standbys returns the healthy replicas.
func (k *keeper) standbys() []int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.standbysLocked()
}

func (k *keeper) standbysLocked() (list []int) {
	for i, h := range k.health {
		if i != k.master && h == healthy && !k.superseded[i] {
			list = append(list, i)
		}
	}
	return list
}

// hurt records and logs a fault that is about to happen to a node.
func (k *keeper) hurt(node int, to health, kind, text string) time.Time {
	at := time.Now()
	k.set(func() { k.health[node] = to })
	k.book.fault(kind, node, k.screen.since(at))
	k.screen.event(at, eventFault, k.names[node]+text)
	return at
}

// crash kills all processes of a node, as a power loss does. If the node is the master, a replica takes over.
func (k *keeper) crash(ctx context.Context, node int) error {
	if err := k.spare(ctx, node); err != nil {
		return err
	}
	at := k.hurt(node, crashed, "crash", " killed: kill -9 of all its processes")
	if err := k.nodes[node].Kill(); err != nil {
		return err
	}
	return k.replace(ctx, node, at.Add(noticeTime))
}

// freeze stops all processes of a node, as a machine that hangs does. If the node is the master, a replica takes over.
func (k *keeper) freeze(ctx context.Context, node int) error {
	if err := k.spare(ctx, node); err != nil {
		return err
	}
	at := k.hurt(node, frozen, "freeze", " frozen: its connections stay open, and nothing answers")
	if err := k.nodes[node].Freeze(); err != nil {
		return err
	}
	return k.replace(ctx, node, at.Add(noticeTime))
}

// thaw lets a frozen node go on. A master that was replaced meanwhile does not know that.
func (k *keeper) thaw(ctx context.Context, node int) error {
	k.set(func() { k.health[node] = healthy })
	text := " thawed"
	if k.superseded[node] {
		text = " thawed: it still takes itself for the master"
	}
	k.screen.event(time.Now(), eventRepair, k.names[node]+text)
	if err := k.nodes[node].Thaw(); err != nil {
		return err
	}
	master, well := k.present()
	if node == master || k.superseded[node] || !well {
		return nil
	}
	if err := k.nodes[node].Follow(ctx, k.nodes[master]); err != nil {
		return err
	}
	return k.synchronize(ctx)
}

// switchover stops the master with a fast stop and promotes a replica. The old master comes back as a replica.
func (k *keeper) switchover(ctx context.Context) error {
	old, _ := k.present()
	at := k.hurt(old, crashed, "switchover", " shut down (fast shutdown), for a switchover")
	if err := k.nodes[old].Stop(ctx, pgcluster.StopFast); err != nil {
		return err
	}
	if err := k.replace(ctx, old, at); err != nil {
		return err
	}
	return k.repair(ctx, old)
}

// repair makes a node work again. The master becomes the master again, any other node a replica of the master.
func (k *keeper) repair(ctx context.Context, node int) error {
	master, _ := k.present()
	if node == master && k.health[node] == frozen {
		return k.thaw(ctx, node)
	}
	if node == master {
		k.screen.event(time.Now(), eventRepair, k.names[node]+" starts again, as the master that it was")
		if err := k.nodes[node].Start(ctx); err != nil {
			return err
		}
	} else {
		k.screen.event(time.Now(), eventRepair, k.names[node]+" rejoins as a replica")
		if err := k.nodes[node].Rejoin(ctx, k.nodes[master]); err != nil {
			return err
		}
		k.screen.echo(time.Now(), eventRepair, k.names[node]+" streams from "+k.names[master])
	}
	k.set(func() { k.health[node], k.superseded[node] = healthy, false })
	return k.synchronize(ctx)
}

// synchronize makes commits wait for a replica if there is a healthy one, as Patroni's synchronous_mode does.
func (k *keeper) synchronize(ctx context.Context) error {
	master, _ := k.present()
	return k.cluster.SetSynchronous(ctx, k.nodes[master], min(1, len(k.standbys())))
}

// spare makes commits stop waiting for the last replica before that replica gets a fault.
func (k *keeper) spare(ctx context.Context, node int) error {
	standbys := k.standbys()
	master, well := k.present()
	if !well || len(standbys) != 1 || standbys[0] != node {
		return nil
	}
	return k.cluster.SetSynchronous(ctx, k.nodes[master], 0)
}

// replace does what a failover manager does when the master is gone: it chooses the replica that has received the most WAL,
// promotes it at the given time, and lets the others follow it. If old is not the master, it does nothing.
func (k *keeper) replace(ctx context.Context, old int, at time.Time) error {
	if master, _ := k.present(); master != old {
		return nil
	}
	candidates := k.standbys()
	if len(candidates) == 0 {
		k.screen.event(time.Now(), eventError, "no replica is left to take over: repair "+k.names[old])
		return nil
	}
	next, err := k.choose(ctx, candidates, at.Add(-chooseTime))
	if err != nil {
		return err
	}
	// The other standbys do not stream from the next master yet, so commits must not wait for them.
	if err := k.cluster.SetSynchronous(ctx, k.nodes[next], 0); err != nil {
		return err
	}
	if err := sleep(ctx, time.Until(at)); err != nil {
		return err
	}
	k.screen.event(time.Now(), eventRepair, k.names[next]+" promoted, as a failover manager would: it has received the most")
	if err := k.nodes[next].Promote(ctx); err != nil {
		return err
	}
	k.set(func() { k.master, k.superseded[old] = next, true })
	for _, i := range k.standbys() {
		if err := k.nodes[i].Follow(ctx, k.nodes[next]); err != nil {
			return err
		}
	}
	for _, i := range k.standbys() {
		if err := k.nodes[i].WaitStreaming(ctx, k.nodes[next]); err != nil {
			return err
		}
	}
	return k.synchronize(ctx)
}

// choose returns the candidate that has received the most WAL at the given time. Every write that a standby has confirmed is
// on that candidate.
func (k *keeper) choose(ctx context.Context, candidates []int, at time.Time) (node int, err error) {
	conns := make([]*pgx.Conn, len(candidates)) // connected beforehand, because the queries are urgent
	for i, candidate := range candidates {
		if conns[i], err = k.nodes[candidate].Conn(ctx); err != nil {
			return nobody, err
		}
		defer closeNow(conns[i])
	}
	if err := sleep(ctx, time.Until(at)); err != nil {
		return nobody, err
	}
	node = nobody
	var most hasql.LSN
	for i, conn := range conns {
		var text string
		if err := conn.QueryRow(ctx, "select coalesce(pg_last_wal_receive_lsn(), '0/0')::text").Scan(&text); err != nil {
			return nobody, err
		}
		lsn, err := hasql.ParseLSN(text)
		if err != nil {
			return nobody, err
		}
		if node == nobody || lsn > most {
			node, most = candidates[i], lsn
		}
	}
	return node, nil
}
