package hasql

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// patience is how long an acquire waits for a connection of one node before it looks whether another node has one
	// sooner. It is longer than most statements take, so that a pool that is full for a moment keeps its acquires, and those
	// of a zone stay in it. From then on it looks less and less often, at least once in maxPatience.
	patience    = 20 * time.Millisecond
	maxPatience = 8 * patience
)

// errElsewhere ends the wait for a connection of one node because another node has one sooner.
var errElsewhere = errors.New("another node has a connection sooner")

// errChanged is the node that was picked, when it is no longer what it was picked for.
var errChanged = errors.New("the node has changed")

// borrow gets a connection of one of the candidates: of the one that was picked, unless another one has a connection sooner.
// It returns the node that it came to.
func (r *Route) borrow(ctx context.Context, c *Candidate, choice *choice, failed map[int]error, since time.Time) (*pgxpool.Conn, *Candidate, error) {
	var claimed *Candidate // a node where a connection is counted as lent to us
	if c.load.free() <= 0 && len(choice.fit) > 1 {
		claimed = r.spare(choice.fit, c, true, c.Latency+latencyWindow)
	}
	for {
		if claimed != nil {
			c = claimed
		} else {
			c.load.lent.Add(1)
		}
		service := r.pm.pools[c.index].service.Load()
		if !r.fits(c) { // it changed before we got hold of its service, which therefore would not tell us
			c.load.lent.Add(-1)
			return nil, c, errChanged
		}
		p := r.enqueue(ctx, service, c, failed, since)
		conn, err := r.pm.pools[c.index].borrow(p)
		claimed = p.leave()
		if claimed == nil {
			return conn, c, err
		}
		if err == nil { // both came at once
			claimed.load.lent.Add(-1)
			return conn, c, nil
		}
	}
}

// place is the place of an acquire in the queue of one node's pool. It is kept until another node has a connection to
// spare, which is claimed first: so nobody gives his place up for a connection that somebody else gets, and a cluster whose
// pools are all full serves in the order of arrival.
type place struct {
	bound
	route  *Route
	at     *Candidate
	failed map[int]error // nodes that could not be connected to
	since  time.Time     // when the acquire began to wait, for whichever node
	began  time.Time     // when it began to wait here
	looked time.Time     // when it last looked for a better one

	mu   sync.Mutex
	over bool       // it got a connection, or goes elsewhere, or gave up
	to   *Candidate // where a connection is claimed
}

// enqueue takes a place in the queue of a node, and has somebody look after it unless no other node can come to fit.
func (r *Route) enqueue(ctx context.Context, service *service, at *Candidate, failed map[int]error, since time.Time) *place {
	p := &place{route: r, at: at, failed: maps.Clone(failed), since: since, began: time.Now()}
	if len(r.pm.pools) > 1 && (r.want.target != TargetMaster || r.pm.config.MultiMaster) {
		p.place = p
		defer r.pm.pools[at.index].startLooking()
	}
	p.bind(ctx, service)
	return p
}

// keep ends the looking: there is a connection.
func (p *place) keep() *Candidate {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	return p.to
}

// leave gives the place up, and returns the node where a connection is claimed, if any is.
func (p *place) leave() *Candidate {
	p.release()
	return p.keep()
}

// look ends the wait if another node has a connection sooner.
func (p *place) look(now time.Time) {
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
		better.load.lent.Add(-1)
		return
	}
	p.over, p.to = true, better
	p.end(errElsewhere)
}

// better returns a node that has a connection sooner, which is counted as lent then.
func (p *place) better() *Candidate {
	t := p.route.current()
	if t.snapshot.closed {
		return nil
	}
	others := t.all
	if len(p.failed) > 0 && p.looked.Sub(p.began) < maxDialBackoff { // by then they are worth another try
		choice := t.snapshot.candidates(&p.route.want, p.failed)
		others = choice.all
	}
	if c := p.route.spare(others, p.at, p.at.load.free() < 0, math.MaxInt64); c != nil {
		return c
	}
	return p.route.faster(others, p.at)
}

// lookout looks after those who wait for a connection of a node.
type lookout struct {
	on     atomic.Bool // whether somebody waits
	served []int64     // by each node, when this one lent its last connection, as far as was seen
}

func (n *nodePool) startLooking() {
	if !n.lookout.on.Load() && !n.lookout.on.Swap(true) {
		time.AfterFunc(patience, n.look)
	}
}

// look has everybody look who waits, in the order of arrival, and comes again until nobody does.
func (n *nodePool) look() {
	now, places := time.Now(), n.service.Load().places()
	if len(places) == 0 {
		n.lookout.served = nil
		n.lookout.on.Store(false)
		if len(n.service.Load().places()) > 0 { // who came meanwhile took it for on
			n.startLooking()
		}
		return
	}
	if pools := places[0].route.pm.pools; n.lookout.served == nil || n.lookout.served[places[0].at.index] != n.load.served() {
		n.lookout.served = n.lookout.served[:0]
		for _, pool := range pools {
			n.lookout.served = append(n.lookout.served, pool.load.served())
		}
	}
	for _, p := range places {
		p.look(now)
	}
	time.AfterFunc(patience, n.look)
}

// places returns the places of those who wait, in the order of arrival.
func (s *service) places() (places []*place) {
	s.mu.Lock()
	for b := range s.waits {
		if b.place != nil {
			places = append(places, b.place)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(places, func(p, q *place) int { return p.since.Compare(q.since) })
	return places
}

// spare claims a connection of another node that has one to spare and is near enough. Where several have, the Picker
// chooses among them alone. A connection that is yet to be dialled is better than a full pool only.
func (r *Route) spare(cs []Candidate, at *Candidate, full bool, farthest time.Duration) *Candidate {
	var free []Candidate
	for i := range cs {
		c := &cs[i]
		if c.index != at.index && c.Latency <= farthest && (c.load.idle() || full && c.load.free() > 0) &&
			(!c.rising || r.pm.pools[c.index].risen(c.Since)) {
			free = append(free, *c)
		}
	}
	if c := r.pickOf(prepared(free)); c != nil && c.load.claim() {
		return c
	}
	return nil
}

// faster goes to the queue of a node that has lent more connections than that queue is long, while the one at hand lent
// none.
func (r *Route) faster(cs []Candidate, at *Candidate) *Candidate {
	served := r.pm.pools[at.index].lookout.served
	var faster []Candidate
	for i := range cs {
		c := &cs[i]
		if c.index != at.index && at.load.served() == served[at.index] && c.load.served()-served[c.index] > int64(max(0, -c.load.free())) {
			faster = append(faster, *c)
		}
	}
	c := r.pickOf(prepared(faster))
	if c != nil {
		c.load.lent.Add(1)
	}
	return c
}
