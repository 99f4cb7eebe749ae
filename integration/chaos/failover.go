package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// failover is one round under way.
type failover struct {
	*testbed
	round
	old    int   // the master that the fault hits
	next   int   // the new master
	fallen []int // nodes that have to rejoin the new master
}

// result is the measured result of one failover.
type result struct {
	round
	old, next string
	outage    map[string]time.Duration // of writes, by service
	readGap   time.Duration
	reads     int // failed
	writes    int // failed
	unknown   int // of them, with an unknown outcome
	inEffect  int // of these, in the history
	lost      int // acknowledged, and not in the history
	missed    int // reads that a doubtful replica answered without the promised version
	took      time.Duration
}

// runRound runs one failover. The cluster is healthy before and after it.
func (t *testbed) runRound(ctx context.Context, r round) (result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the failover took more than %v", patience))
	defer cancel()
	began := time.Now()
	f := &failover{testbed: t, round: r, old: t.term.Load().node}
	f.fallen = []int{f.old}
	res := result{round: r, old: t.nodes[f.old].Name(), outage: make(map[string]time.Duration)}
	t.expectErrors(f.old)
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"the fault", f.begin},
		{"the promotion", f.promote},
		{"the end of the fault", f.end},
		{"the return", f.rejoin},
	} {
		if err := step.do(ctx); err != nil {
			return res, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	res.next = t.nodes[f.next].Name()
	t.recorder.expectNoErrors() // all operations from before have ended
	if err := f.audit(ctx, &res); err != nil {
		return res, fmt.Errorf("the audit: %w", err)
	}
	t.recorder.mu.Lock()
	defer t.recorder.mu.Unlock()
	for _, s := range t.services {
		res.outage[s.name] = longestGap(t.recorder.ops, s.name, true)
		res.readGap = max(res.readGap, longestGap(t.recorder.ops, s.name, false))
	}
	res.missed = t.recorder.missed
	res.writes, res.reads = failures(t.recorder.ops, true), failures(t.recorder.ops, false)
	res.took = time.Since(began)
	return res, nil
}

// begin injects the fault. In some rounds it then waits until clients have noticed the fault.
func (f *failover) begin(ctx context.Context) error {
	if f.asynchronous {
		if err := f.cluster.SetSynchronous(ctx, f.nodes[f.old], 0); err != nil {
			return err
		}
	}
	if err := f.inject(f, ctx); err != nil || !f.noticed {
		return err
	}
	return f.services[1].await(ctx, "the fault to be noticed", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
}

// promote does what a failover manager does, and waits until the clients make progress.
func (f *failover) promote(ctx context.Context) error {
	if err := f.elect(ctx); err != nil {
		return err
	}
	if f.twice {
		return f.killNewMaster(ctx)
	}
	return f.progress(ctx, f.idle)
}

// idle reports whether a client can make no progress before the fault has ended.
func (f *failover) idle(c *client) bool { return f.split && c.proxied || f.backward && !c.writes }

// elect chooses the next master among the standbys, which it takes from the old master so that the old one can acknowledge
// nothing any more, and promotes it. In a backward round it promotes the standby that has received least, and the other one
// has diverged.
func (f *failover) elect(ctx context.Context) error {
	var standbys []*pgcluster.Node
	for _, i := range f.others(f.old) {
		standbys = append(standbys, f.nodes[i])
	}
	ranked, err := pgcluster.Elect(ctx, standbys...)
	if err != nil {
		return err
	}
	if f.backward {
		slices.Reverse(ranked)
	}
	f.next = slices.Index(f.nodes, ranked[0])
	if f.isolates {
		f.expectErrors(f.next)
		if err := f.proxies[f.next].Cut(); err != nil {
			return err
		}
	}
	if f.backward {
		other := slices.Index(f.nodes, ranked[1])
		f.expectErrors(other)
		f.fallen = append(f.fallen, other)
		f.beginTerm(other)
		return ranked[0].TakeOver(ctx)
	}
	f.beginTerm()
	return ranked[0].TakeOver(ctx, ranked[1:]...)
}

// beginTerm begins the term of the next master, just before its promotion. From now on no other node can acknowledge a write,
// except in an asynchronous round, to services that do not know the new master yet.
func (f *failover) beginTerm(doubtful ...int) {
	r := &term{node: f.next, epoch: f.term.Load().epoch, lossy: f.asynchronous, doubtful: doubtful}
	if r.lossy {
		r.epoch++
	}
	f.term.Store(r)
}

// killNewMaster kills the new master as soon as it has a replica, and promotes the replica.
func (f *failover) killNewMaster(ctx context.Context) error {
	second := f.next
	for _, i := range f.others(f.old) {
		if i != second {
			f.next = i
		}
	}
	if err := f.nodes[f.next].WaitStreaming(ctx, f.nodes[second]); err != nil {
		return err
	}
	f.expectErrors(second)
	f.fallen = append(f.fallen, second)
	if err := f.nodes[second].Kill(); err != nil {
		return err
	}
	f.beginTerm()
	return f.nodes[f.next].Promote(ctx)
}

// end ends the fault. If the old master survives, it waits until every service has fenced it.
func (f *failover) end(ctx context.Context) error {
	if f.undo != nil {
		if err := f.undo(f); err != nil {
			return err
		}
	}
	if !f.survives {
		return nil
	}
	for _, s := range f.services {
		err := s.await(ctx, "the old master to be fenced", func(shot *hasql.Snapshot) bool {
			return s.state(shot, f.old).Status == hasql.StatusStale
		})
		if err != nil {
			return err
		}
	}
	if err := f.progress(ctx, none); err != nil {
		return fmt.Errorf("next to the stale master: %w", err)
	}
	return nil
}

// rejoin makes replicas of the fallen nodes, and waits until all clients make progress on the healthy cluster.
func (f *failover) rejoin(ctx context.Context) error {
	f.doubt(f.fallen)
	for _, i := range f.fallen {
		rejoin := f.nodes[i].Rejoin
		if f.rebuild && i == f.old {
			rejoin = f.nodes[i].Rebuild
		}
		if err := rejoin(ctx, f.nodes[f.next]); err != nil {
			return err
		}
	}
	if f.asynchronous {
		if err := f.cluster.SetSynchronous(ctx, f.nodes[f.next], 1); err != nil {
			return err
		}
	}
	for _, s := range f.services {
		if err := s.pm.Ready(ctx, 1, replicas); err != nil {
			return fmt.Errorf("the %s service: %w", s.name, err)
		}
	}
	if err := f.progress(ctx, none); err != nil {
		return err
	}
	f.doubt(nil)
	return nil
}

// doubt sets the doubtful replicas of the present term.
func (f *failover) doubt(nodes []int) {
	r := *f.term.Load()
	r.doubtful = nodes
	f.term.Store(&r)
}
