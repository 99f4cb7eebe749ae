package hasql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

// Acquire returns a connection to a node that fits. It blocks until there is one, for AcquireTimeout at most, or until
// ctx ends. The caller must Release the connection. Errors are [ErrClosed], a [*NoNodeError] that contains the state of
// every node, and errors of the user's own pool hooks. One acquire may run a hook such as PrepareConn for connections of
// several nodes.
func (r *Route) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	t := r.currentSelection()
	c := r.pick(&t.choice)
	var spent time.Duration
	if c != nil {
		var conn *pgxpool.Conn
		if conn, spent = c.node.pool.TryBorrow(ctx); conn != nil {
			if r.cluster.snapshot() == t.snapshot || r.fits(c) {
				r.count(c)
				return conn, nil
			}
			conn.Release() // the node changed meanwhile
		}
	}
	return r.wait(ctx, t.snapshot, c, spent)
}

// samplePeriod is how many connections are lent for each one whose server parameters are compared when it is released. To
// compare them at each release would cost too much, and one in 16 is enough under load. While no master is known they are
// compared at each release.
const samplePeriod = 16

// count counts a connection that was lent. After every samplePeriod of them it has the next released connection compared.
func (r *Route) count(c *Candidate) {
	if c.node.acquires[r.criteria.target].Add(1)%samplePeriod == 0 {
		c.node.pool.SampleNext()
	}
}

// wait acquires a connection when the acquire has to wait for a node, a place in a pool, or a dial. It begins with the node
// that was picked already, if the snapshot is still the same. A second call of the Picker would make RoundRobin skip a node
// each time.
func (r *Route) wait(ctx context.Context, picked *Snapshot, first *Candidate, spent time.Duration) (conn *pgxpool.Conn, err error) {
	started := time.Now().Add(-spent)
	defer r.waits.record(started, &err)
	err = r.seek(ctx, started, picked, first, func(ctx context.Context, c *Candidate, choice *choice, failed map[*node]error) (*Candidate, error) {
		got, c, err := r.borrow(ctx, c, choice, failed, started)
		switch {
		case err != nil:
			return c, err
		case !r.fits(c): // the node changed during the wait
			got.Release()
			return c, errChanged
		}
		r.count(c)
		conn = got
		return c, nil
	})
	return conn, err
}

// seek tries one node that fits after another until try succeeds, for AcquireTimeout at most. try returns the candidate
// that it ended with, which may differ from the one that it was given.
func (r *Route) seek(ctx context.Context, started time.Time, picked *Snapshot, first *Candidate,
	try func(ctx context.Context, c *Candidate, choice *choice, failed map[*node]error) (*Candidate, error),
) error {
	r.waits.begun.Add(1)
	defer r.waits.ended.Add(1)
	if limit := r.criteria.timeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, started.Add(limit), errAcquireTimeout)
		defer cancel()
	}
	var failed map[*node]error // nodes that fit but could not be connected to, since this acquire last had no candidate left
	var tried map[string]error
	for round := 0; ; {
		t := r.currentSelection()
		if t.snapshot.closed {
			return ErrClosed
		}
		if ctx.Err() != nil || t.snapshot.refused {
			err := r.cluster.noNode(ctx, t.snapshot, r.criteria.target.String(), started, tried)
			err.Found, err.InUse = len(t.all) > 0, inUse(t.all)
			err.fallback = r.criteria.target == TargetReplica && !err.Found && t.snapshot.MasterCount() > 0
			return err
		}
		choice := &t.choice
		if len(failed) > 0 {
			left := t.snapshot.candidates(&r.criteria, failed)
			choice = &left
		}
		c := first
		if first = nil; c == nil || t.snapshot != picked {
			c = r.pick(choice)
		}
		if c == nil {
			if r.awaitCandidates(ctx, t.snapshot, failed, round) {
				round++
			}
			clear(failed)
			continue
		}
		c, err := try(ctx, c, choice, failed)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, err == errChanged, pgerr.Is[*nodepool.GenerationEndedError](err), r.cluster.snapshot().closed:
		case pgerr.Is[*nodepool.LostConnError](err):
			c.node.checks.SuggestCheck()
		case nodepool.IsDialError(err):
			if failed == nil {
				failed, tried = make(map[*node]error), make(map[string]error)
			}
			failed[c.node], tried[c.Name] = err, pgerr.Redacted(err)
			c.node.checks.SuggestCheck()
		default:
			return err // an error of the user's hook
		}
	}
}

// awaitCandidates waits until the candidates may have changed, in one of three ways. If connecting to nodes that fit has
// failed, it returns when they are worth another try; each such wait is longer than the one before. If the next probe may
// make a node fit, it asks for a probe, less and less often. Otherwise it waits for a change. It returns false if a change
// or the end of ctx ended it, else true.
func (r *Route) awaitCandidates(ctx context.Context, s *Snapshot, failed map[*node]error, round int) bool {
	var again time.Duration
	switch {
	case len(failed) > 0:
		return awaitRetry(ctx, s, failed, random.Jittered(backedOff(nodepool.MinDialBackoff, round, nodepool.MaxDialBackoff)))
	case r.criteria.volatile():
		again = backedOff(r.config.RecoveryInterval, round-1, r.config.CheckInterval)
	default:
		r.cluster.awaitChange(ctx, s)
		return false
	}
	select {
	case <-s.next:
	case <-ctx.Done():
	case <-time.After(again):
		r.cluster.requestChecks(s, 0)
		return true
	}
	return false
}

// awaitRetry waits until nodes that could not be connected to are worth another try: until backoff has passed, or until one
// of them has an idle connection because another acquire has released it. If the server is full, only a connection that is
// released can help. awaitRetry looks less and less often, at least once in maxPatience, so that a thousand waiting acquires
// cost little.
func awaitRetry(ctx context.Context, s *Snapshot, failed map[*node]error, backoff time.Duration) bool {
	end := time.Now().Add(backoff)
	for look := 0; ; look++ {
		select {
		case <-s.changed:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(min(backedOff(patience, look, maxPatience), time.Until(end))):
		}
		if !time.Now().Before(end) || len(withoutIdle(failed)) < len(failed) {
			return true
		}
	}
}

// If every connection of every candidate is in use, inUse returns the sum of their limits. Else it returns 0.
func inUse(cs []Candidate) (n int) {
	for i := range cs {
		if cs[i].load.Free() > 0 {
			return 0
		}
		n += cs[i].load.Limit()
	}
	return n
}
