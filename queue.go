package hasql

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
)

const (
	// patience is how long an acquire has waited when its node's lookout first looks whether another node has a connection
	// sooner. It is longer than most statements take. So acquires stay with a pool that is full for a moment. After that the
	// lookout looks less and less often, at least once in maxPatience.
	patience    = 20 * time.Millisecond
	maxPatience = 8 * patience
)

// errElsewhere ends the wait for a connection of one node because another node has a connection sooner.
var errElsewhere = errors.New("another node has a connection sooner")

// errChanged says that the picked node has changed and may no longer fit.
var errChanged = errors.New("the node has changed")

// borrow gets a connection of the picked candidate, or of another one that has a connection sooner. It returns the
// candidate that the connection belongs to.
func (r *Route) borrow(ctx context.Context, c *Candidate, choice *choice, failed map[*node]error, since time.Time) (*pgxpool.Conn, *Candidate, error) {
	var claimed *Candidate // a node whose load already counts this acquire
	if c.load.Free() <= 0 && len(choice.fit) > 1 {
		claimed = r.spare(choice.fit, c, true, c.Latency+latencyWindow)
	}
	for {
		if claimed != nil {
			c = claimed
		} else {
			c.load.Take()
		}
		generation := c.node.pool.Generation()
		if !r.fits(c) { // the node changed before Generation was called, so this generation will not end because of that change
			c.load.GiveBack()
			return nil, c, errChanged
		}
		p := r.enqueue(ctx, generation, c, failed, since)
		conn, err := c.node.pool.Borrow(&p.WaitContext)
		claimed = p.giveUp()
		if claimed == nil {
			return conn, c, err
		}
		if err == nil { // both connections came at the same time
			claimed.load.GiveBack()
			return conn, c, nil
		}
	}
}

// queueEntry is the place of an acquire in the queue of one node's pool. The acquire keeps it until another node has a connection
// to spare, which is claimed for it before it leaves, or until another queue moves and its own does not. So no acquire gives
// up its place for a connection that another one gets. If all pools of a cluster are full, acquires are served in the order
// of their arrival.
type queueEntry struct {
	nodepool.WaitContext
	route  *Route
	at     *Candidate
	failed map[*node]error // nodes that could not be connected to
	since  time.Time       // when the acquire began to wait for any node
	began  time.Time       // when the acquire began to wait in this queue
	looked time.Time       // when a better node was last looked for

	mu   sync.Mutex
	over bool       // whether the acquire got a connection, goes to another node, or gave up
	to   *Candidate // the node where a connection is claimed
}

// enqueue takes a place in the queue of a node. If another node may come to fit, it also starts the node's lookout.
func (r *Route) enqueue(ctx context.Context, generation *nodepool.Generation, at *Candidate, failed map[*node]error, since time.Time) *queueEntry {
	p := &queueEntry{route: r, at: at, failed: maps.Clone(failed), since: since, began: time.Now()}
	if r.cluster.snapshot().Len() > 1 && (r.criteria.target != TargetMaster || r.config.MultiMaster) {
		p.Waiter = p
		defer at.node.startLooking()
	}
	p.Bind(ctx, generation)
	return p
}

// StopLooking ends the search for a better node, because there is a connection.
func (p *queueEntry) StopLooking() { p.stopLooking() }

// stopLooking does the work of StopLooking. It returns the node where a connection is claimed, or nil.
func (p *queueEntry) stopLooking() *Candidate {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	return p.to
}

// giveUp gives up the place. It returns the node where a connection is claimed, or nil.
func (p *queueEntry) giveUp() *Candidate {
	p.Release()
	return p.stopLooking()
}

// look ends the wait if another node has a connection sooner.
func (p *queueEntry) look(now time.Time) {
	if waited, pause := now.Sub(p.since), now.Sub(p.looked); waited < patience || pause < min(waited/2, maxPatience) {
		return
	}
	p.looked = now
	better := p.better()
	if better == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		better.load.GiveBack()
		return
	}
	p.over, p.to = true, better
	p.End(errElsewhere)
}

// better returns a node that has a connection sooner, and counts this acquire in the load of that node. It runs on the
// goroutine of a timer, where a panic of the user's Picker would end the process. After such a panic the acquire keeps its
// place. If the Picker also panics in the goroutine of an acquire, that acquire ends with the panic.
func (p *queueEntry) better() (c *Candidate) {
	defer func() {
		if recover() != nil {
			c = nil
		}
	}()
	t := p.route.currentSelection()
	if t.snapshot.closed {
		return nil
	}
	others := t.all
	if len(p.failed) > 0 && p.looked.Sub(p.began) < nodepool.MaxDialBackoff { // after MaxDialBackoff the failed nodes are worth another try
		choice := t.snapshot.candidates(&p.route.criteria, withoutIdle(p.failed))
		others = choice.all
	}
	if c := p.route.spare(others, p.at, p.at.load.Free() < 0, math.MaxInt64); c != nil {
		return c
	}
	return p.route.faster(others, p.at)
}

func (n *node) startLooking() {
	if !n.lookout.on.Load() && !n.lookout.on.Swap(true) {
		time.AfterFunc(patience, n.look)
	}
}

// look lets every waiting acquire look for a better node, in the order of arrival. It runs again as long as an acquire
// waits.
func (n *node) look() {
	now, places := time.Now(), n.places()
	if len(places) == 0 {
		n.lookout.servedBefore = nil
		n.lookout.on.Store(false)
		if len(n.places()) > 0 { // an acquire that came meanwhile saw that the lookout was on
			n.startLooking()
		}
		return
	}
	if n.lookout.servedBefore == nil || n.lookout.servedBefore[n] != n.served() {
		n.lookout.servedBefore = make(map[*node]int64)
		for other := range places[0].route.cluster.snapshot().members() {
			n.lookout.servedBefore[other] = other.served()
		}
	}
	for _, p := range places {
		p.look(now)
	}
	time.AfterFunc(patience, n.look)
}

// places returns the places of the waiting acquires, in the order of arrival.
func (n *node) places() (places []*queueEntry) {
	for _, waiter := range n.pool.Generation().Waiters() {
		places = append(places, waiter.(*queueEntry))
	}
	slices.SortFunc(places, func(p, q *queueEntry) int { return p.since.Compare(q.since) })
	return places
}

// spare claims a connection of another node that has one to spare and is near enough. If several nodes have one, the
// Picker chooses among them. A connection that must be dialled first counts only if full is true: it is better than a
// full pool, but not better than a connection that comes soon.
func (r *Route) spare(cs []Candidate, at *Candidate, full bool, farthest time.Duration) *Candidate {
	var free []Candidate
	for i := range cs {
		c := &cs[i]
		if c.node != at.node && c.Latency <= farthest && (c.load.Idle() || full && c.load.Free() > 0) &&
			(!c.slowStarting || c.node.admittedBySlowStart(c.Since)) {
			free = append(free, *c)
		}
	}
	if c := r.pickOf(indexed(free)); c != nil && c.load.Claim() {
		return c
	}
	return nil
}

// faster joins the queue of another node if that node has lent more connections than its queue is long, while the present
// node lent none.
func (r *Route) faster(cs []Candidate, at *Candidate) *Candidate {
	served := at.node.lookout.servedBefore
	if at.node.served() != served[at.node] {
		return nil
	}
	var faster []Candidate
	for i := range cs {
		c := &cs[i]
		before, known := served[c.node]
		if known && c.node != at.node && c.node.served()-before > int64(max(0, -c.load.Free())) {
			faster = append(faster, *c)
		}
	}
	c := r.pickOf(indexed(faster))
	if c != nil {
		c.load.Take()
	}
	return c
}

// withoutIdle returns the nodes that have no idle connection.
func withoutIdle(nodes map[*node]error) map[*node]error {
	left := maps.Clone(nodes)
	maps.DeleteFunc(left, func(n *node, _ error) bool { return n.load.Idle() })
	return left
}
