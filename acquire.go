package hasql

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Acquire returns a connection to a fitting node. It blocks until there is one, for AcquireTimeout at most, or until ctx
// ends. The caller must Release the connection. Errors are [ErrClosed], a [*NoNodeError] that says what every node looked
// like, and errors of the user's own pool hooks.
func (r *Route) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	t := r.current()
	if c := r.pick(t.fit, t.masters); c != nil {
		if conn := r.pm.pools[c.index].tryBorrow(ctx, r.want.target); conn != nil {
			if r.pm.cluster.snapshot() == t.snapshot || r.fits(c.index) {
				return conn, nil
			}
			conn.Release() // the node changed under us
		}
	}
	return r.wait(ctx)
}

// current returns the candidates as of the current snapshot.
func (r *Route) current() *table {
	s := r.pm.cluster.snapshot()
	t := r.table.Load()
	if t == nil || t.snapshot != s {
		t = &table{snapshot: s}
		if !s.closed {
			t.fit, t.masters = s.candidates(&r.want)
		}
		r.table.Store(t)
	}
	return t
}

// pick chooses one of the candidates, or nil if there are none.
func (r *Route) pick(fit, masters []Candidate) *Candidate {
	if len(masters) > 0 && (len(fit) == 0 || rand.Float64() < r.want.masterWeight) {
		fit = masters
	}
	switch len(fit) {
	case 0:
		return nil
	case 1:
		return &fit[0]
	}
	c := &fit[0]
	if i := r.pm.config.Picker.Pick(fit); uint(i) < uint(len(fit)) {
		c = &fit[i]
	}
	if c.rising && !r.pm.pools[c.index].risen(c.Since) {
		if settled := r.pick(settled(fit), nil); settled != nil {
			return settled
		}
	}
	return c
}

// settled returns the candidates that are not rising.
func settled(cs []Candidate) []Candidate {
	return filter(cs, func(c *Candidate) bool { return !c.rising })
}

// fits reports whether a node is among the candidates of this very moment.
func (r *Route) fits(node int) bool {
	t := r.current()
	for _, list := range [][]Candidate{t.fit, t.masters} {
		for i := range list {
			if list[i].index == node {
				return true
			}
		}
	}
	return false
}

// wait acquires where there is something to wait for: a node, a place in a pool, a dial.
func (r *Route) wait(ctx context.Context) (conn *pgxpool.Conn, err error) {
	started := time.Now()
	if limit := r.pm.config.AcquireTimeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, started.Add(limit), errAcquireTimeout)
		defer cancel()
	}
	defer r.pm.waits[r.want.target].record(started, &err)

	failed := make(map[int]error) // nodes that fit but could not be connected to, since things last changed
	known := make(map[string]error)
	for round := 0; ; {
		t := r.current()
		if t.snapshot.closed {
			return nil, ErrClosed
		}
		if ctx.Err() != nil {
			return nil, r.pm.noNode(ctx, r.want.target.String(), started, known)
		}
		c := r.pick(without(t.fit, failed), without(t.masters, failed))
		if c == nil {
			if r.pause(ctx, t.snapshot, len(failed) > 0, round) {
				round++
			}
			clear(failed)
			continue
		}
		conn, err := r.pm.pools[c.index].borrow(ctx, r.want.target)
		switch {
		case err == nil && r.fits(c.index):
			return conn, nil
		case err == nil:
			conn.Release() // the node changed while we waited for it
		case ctx.Err() != nil || isRetired(err):
		case isLost(err):
			r.pm.hint(c.index)
		case isDialError(err):
			failed[c.index], known[c.Name] = err, err
			r.pm.hint(c.index)
		case r.pm.cluster.snapshot().closed:
		default:
			return nil, err // of a hook of the user's
		}
	}
}

// pause waits until the candidates may be others; where some failed also until they are worth another try.
func (r *Route) pause(ctx context.Context, s *Snapshot, retry bool, round int) (timedOut bool) {
	news := s.changed
	if r.want.volatile() {
		news = s.next
		r.pm.wishAll()
	}
	var again <-chan time.Time
	if retry {
		again = time.After(jittered(min(minDialBackoff<<min(round, 8), maxDialBackoff)))
	}
	select {
	case <-news:
	case <-again:
		return true
	case <-ctx.Done():
	}
	return false
}

// without returns the candidates whose node is not among the failed ones.
func without(cs []Candidate, failed map[int]error) []Candidate {
	if len(failed) == 0 {
		return cs
	}
	return filter(cs, func(c *Candidate) bool { return failed[c.index] == nil })
}

func filter(cs []Candidate, keep func(*Candidate) bool) []Candidate {
	var rest []Candidate
	for i := range cs {
		if keep(&cs[i]) {
			rest = append(rest, cs[i])
		}
	}
	return prepared(rest)
}

// noNode makes the error of a wait that ended in vain.
func (pm *PoolManager) noNode(ctx context.Context, wanted string, started time.Time, tried map[string]error) error {
	s := pm.cluster.snapshot()
	return &NoNodeError{
		Wanted: wanted,
		Waited: time.Since(started),
		Nodes:  slices.Clone(s.nodes),
		ended:  context.Cause(ctx),
		tried:  maps.Clone(tried),
	}
}
