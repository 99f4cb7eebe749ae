package hasql

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// table are the candidates of a route as of one snapshot.
type table struct {
	snapshot *Snapshot
	choice
}

// Acquire returns a connection to a fitting node. It blocks until there is one, for AcquireTimeout at most, or until ctx
// ends. The caller must Release the connection. Errors are [ErrClosed], a [*NoNodeError] that says what every node looked
// like, and errors of the user's own pool hooks. A hook such as PrepareConn may run for connections of several nodes.
func (r *Route) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	t := r.current()
	c := r.pick(&t.choice)
	var spent time.Duration
	if c != nil {
		var conn *pgxpool.Conn
		if conn, spent = r.pm.pools[c.index].tryBorrow(ctx); conn != nil {
			if r.pm.cluster.snapshot() == t.snapshot || r.fits(c) {
				r.count(c)
				return conn, nil
			}
			conn.Release() // the node changed under us
		}
	}
	return r.wait(ctx, t.snapshot, c, spent)
}

// count counts a connection that is lent, and now and then has the next one that is released looked at.
func (r *Route) count(c *Candidate) {
	if c.load.acquires[r.want.target].Add(1)%sample == 0 {
		r.pm.pools[c.index].traffic.look.Store(true)
	}
}

// current returns the candidates as of the current snapshot. The first acquire that sees a new one finds them for all.
func (r *Route) current() *table {
	s := r.pm.cluster.snapshot()
	t := r.table.Load()
	if t == nil || t.snapshot != s {
		t = &table{snapshot: s}
		if !s.closed {
			t.choice = s.candidates(&r.want, nil)
		}
		r.table.Store(t)
	}
	return t
}

// pick chooses one of the candidates, or nil if there are none.
func (r *Route) pick(c *choice) *Candidate {
	if len(c.masters) > 0 && fraction() < r.want.masterWeight {
		return r.pickOf(c.masters)
	}
	chosen := r.pickOf(c.fit)
	if c.settled != nil && chosen.rising && !r.pm.pools[chosen.index].risen(chosen.Since) {
		return r.pickOf(c.settled)
	}
	return chosen
}

func (r *Route) pickOf(cs []Candidate) *Candidate {
	switch len(cs) {
	case 0:
		return nil
	case 1:
		return &cs[0]
	}
	if i := r.pm.config.Picker.Pick(cs); uint(i) < uint(len(cs)) {
		return &cs[i]
	}
	return &cs[0]
}

// fits reports whether a candidate is at this very moment what it was picked for.
func (r *Route) fits(c *Candidate) bool {
	n := &r.pm.cluster.snapshot().nodes[c.index]
	return n.Status == StatusUp && n.Role == c.Role && (n.Role == RoleMaster || r.want.fresh(n))
}

// wait acquires where there is something to wait for: a node, a place in a pool, a dial. It begins with the node that was
// picked already, if the view is still the same: to pick again would skip every other turn of a policy that takes turns.
func (r *Route) wait(ctx context.Context, picked *Snapshot, first *Candidate, spent time.Duration) (conn *pgxpool.Conn, err error) {
	started := time.Now().Add(-spent)
	if limit := r.pm.config.AcquireTimeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, started.Add(limit), errAcquireTimeout)
		defer cancel()
	}
	defer r.pm.waits[r.want.target].record(started, &err)

	var failed map[int]error // nodes that fit but could not be connected to, since things last changed
	var tried map[string]error
	for round := 0; ; {
		t := r.current()
		if t.snapshot.closed {
			return nil, ErrClosed
		}
		if ctx.Err() != nil {
			err := r.pm.noNode(ctx, r.want.target.String(), started, tried)
			err.InUse = inUse(t.all)
			return nil, err
		}
		choice := &t.choice
		if len(failed) > 0 {
			left := t.snapshot.candidates(&r.want, failed)
			choice = &left
		}
		c := first
		if first = nil; c == nil || t.snapshot != picked {
			c = r.pick(choice)
		}
		if c == nil {
			if r.pause(ctx, t.snapshot, len(failed) > 0, round) {
				round++
			}
			clear(failed)
			continue
		}
		conn, c, err := r.borrow(ctx, c, choice, failed, started)
		switch {
		case err == nil && r.fits(c):
			r.count(c)
			return conn, nil
		case err == nil:
			conn.Release() // it changed while we waited for it
		case ctx.Err() != nil, err == errChanged, is[*retiredError](err), r.pm.cluster.snapshot().closed:
		case is[*lostConnError](err):
			r.pm.hint(c.index)
		case isDialError(err):
			if failed == nil {
				failed, tried = make(map[int]error), make(map[string]error)
			}
			failed[c.index], tried[c.Name] = err, redacted(err)
			r.pm.hint(c.index)
		default:
			return nil, err // of a hook of the user's
		}
	}
}

// pause waits until the candidates may be others. Where nodes fit that could not be connected to it also ends, after
// longer and longer, when they are worth another try; and where nodes may come to fit by the next probe it asks for one,
// after longer and longer. It reports whether it ended or asked so.
func (r *Route) pause(ctx context.Context, s *Snapshot, retry bool, round int) bool {
	var again time.Duration
	switch {
	case retry:
		again = jittered(backedOff(minDialBackoff, round, maxDialBackoff))
	case r.want.volatile():
		again = backedOff(r.pm.config.RecoveryInterval, round-1, r.pm.config.CheckInterval)
	default:
		r.pm.awaitChange(ctx, s)
		return false
	}
	news := s.changed
	if !retry {
		news = s.next
	}
	select {
	case <-news:
	case <-ctx.Done():
	case <-time.After(again):
		if !retry {
			r.pm.wishFor(s, 0)
		}
		return true
	}
	return false
}

// awaitChange waits until some node has another role or status, and has the nodes asked meanwhile.
func (pm *PoolManager) awaitChange(ctx context.Context, s *Snapshot) {
	lately := min(max(wishInterval, pm.config.RecoveryInterval), pm.config.CheckInterval)
	timer := time.NewTimer(pm.wishFor(s, lately))
	defer timer.Stop()
	for {
		select {
		case <-s.changed:
			return
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(pm.wishFor(pm.cluster.snapshot(), lately))
		}
	}
}

// wishInterval is how long ago a node may have been asked before an acquire that waits for it has it asked again: so short
// that even a caller with half a second gets to know, and so long that a cluster that stays without a master for hours is
// left in peace. What one acquire wishes for does for all others.
const wishInterval = 250 * time.Millisecond

// wishFor asks for a probe of each node that may come to fit where none does, unless it has been asked lately. It returns
// when the first of them is to be asked again. A master needs no probe: it fits already, or must cease to be one first,
// which its monitor sees.
func (pm *PoolManager) wishFor(s *Snapshot, lately time.Duration) (again time.Duration) {
	again = lately
	for i := range s.nodes {
		n, m := &s.nodes[i], pm.monitors[i]
		if n.Role == RoleMaster {
			continue
		}
		if left := lately - time.Since(n.CheckedAt); left > 0 {
			again = min(again, left)
		} else if !m.asking.Load() {
			m.wish()
		}
	}
	return again
}

// backedOff is first, doubled for each round after round 0, up to most. Before round 0 there is nothing to wait for.
func backedOff(first time.Duration, round int, most time.Duration) time.Duration {
	if round < 0 {
		return 0
	}
	return min(first<<min(round, 16), most)
}

// noNode makes the error of a wait that ended in vain.
func (pm *PoolManager) noNode(ctx context.Context, wanted string, started time.Time, tried map[string]error) *NoNodeError {
	nodes := slices.Clone(pm.cluster.snapshot().nodes)
	for i := range nodes {
		nodes[i].load = nodes[i].load.frozen() // as it is now, and not when the error is printed
	}
	return &NoNodeError{
		Wanted: wanted,
		Waited: time.Since(started),
		Nodes:  nodes,
		ended:  ctx.Err(),
		cause:  context.Cause(ctx),
		tried:  tried,
	}
}

// inUse returns how many connections the candidates may have, if all are in use, else 0.
func inUse(cs []Candidate) (n int) {
	for i := range cs {
		if cs[i].load.free() > 0 {
			return 0
		}
		n += cs[i].load.limit
	}
	return n
}
