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
	noticeTime = 300 * time.Millisecond // how long a failover manager takes to find the master dead
	chooseTime = 100 * time.Millisecond // of it, for the choice of the next master
	actLimit   = 50 * time.Second       // the patience with PostgreSQL in one fault or repair
)

// health is what has been done to a node.
type health int

const (
	healthy health = iota
	crashed
	frozen
)

// keeper breaks the cluster, and does what a failover manager does about it. It does one thing at a time.
type keeper struct {
	cluster *pgcluster.Cluster
	nodes   []*pgcluster.Node
	names   []string
	screen  *screen
	book    *book

	acting sync.Mutex     // held by what is under way
	begun  sync.WaitGroup // by the page

	mu         sync.Mutex
	busy       string // what is under way
	master     int
	health     []health
	superseded []bool // another took over while it was the master: it must not come back as it is
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

// present returns the master, and whether it is well.
func (k *keeper) present() (master int, well bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.master, k.health[k.master] == healthy
}

// standbys returns the replicas that are well.
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

// hurt notes what is about to be done to a node, and tells of it.
func (k *keeper) hurt(node int, to health, kind, text string) time.Time {
	at := time.Now()
	k.set(func() { k.health[node] = to })
	k.book.fault(kind, node, k.screen.since(at))
	k.screen.event(at, eventFault, k.names[node]+text)
	return at
}

// crash is power loss. If it hits the master, a replica takes over.
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

// freeze is a machine that hangs. If it hits the master, a replica takes over.
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

// thaw lets a frozen node go on. A master that was replaced meanwhile does not know it.
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

// switchover stops the master in order and lets a replica take over; the old one comes back as a replica.
func (k *keeper) switchover(ctx context.Context) error {
	old, _ := k.present()
	at := k.hurt(old, crashed, "switchover", " stopped in order, for a switchover")
	if err := k.nodes[old].Stop(ctx, pgcluster.StopFast); err != nil {
		return err
	}
	if err := k.replace(ctx, old, at); err != nil {
		return err
	}
	return k.repair(ctx, old)
}

// repair makes a node work again: the master as what it was, any other as a replica of the master.
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

// synchronize makes commits wait for a replica if there is one, as Patroni's synchronous_mode does.
func (k *keeper) synchronize(ctx context.Context) error {
	master, _ := k.present()
	return k.cluster.SetSynchronous(ctx, k.nodes[master], min(1, len(k.standbys())))
}

// spare lets the master do without a replica that is about to be hurt.
func (k *keeper) spare(ctx context.Context, node int) error {
	standbys := k.standbys()
	master, well := k.present()
	if !well || len(standbys) != 1 || standbys[0] != node {
		return nil
	}
	return k.cluster.SetSynchronous(ctx, k.nodes[master], 0)
}

// replace does what a failover manager does when the master is gone: it finds out, chooses the replica that has received
// most, promotes it at the given time, and points the others to it.
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
	// The standbys left do not stream from it yet, so commits must not wait for them.
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

// choose returns the candidate that has received the most WAL at a moment. A write that one standby has confirmed is
// there.
func (k *keeper) choose(ctx context.Context, candidates []int, at time.Time) (node int, err error) {
	conns := make([]*pgx.Conn, len(candidates)) // what is to be asked in a hurry is connected to beforehand
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
