package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pghasql/hasql"
)

// failover is one round under way.
type failover struct {
	*game
	round
	old    int   // the master that is struck
	next   int   // the one that takes over
	fallen []int // what has to rejoin it
}

// result is one failover as it went.
type result struct {
	round
	old, next string
	outage    map[string]time.Duration // of writes, by service
	readGap   time.Duration
	reads     int // failed
	writes    int // failed
	unknown   int // of them, without word of what became of them
	inEffect  int // of these, in the history
	lost      int // acknowledged
	missed    int // reads on a doubtful replica that lacked what they were promised
	took      time.Duration
}

// play is one failover, from a whole cluster to a whole cluster.
func (g *game) play(ctx context.Context, r round) (result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took more than %v", patience))
	defer cancel()
	began := time.Now()
	f := &failover{game: g, round: r, old: g.master.Load().node}
	f.fallen = []int{f.old}
	res := result{round: r, old: g.nodes[f.old].Name(), outage: make(map[string]time.Duration)}
	g.touch(f.old)
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
	res.next = g.nodes[f.next].Name()
	g.book.heal() // all operations from before have ended
	if err := f.audit(ctx, &res); err != nil {
		return res, fmt.Errorf("the audit: %w", err)
	}
	g.book.mu.Lock()
	defer g.book.mu.Unlock()
	for _, s := range g.services {
		res.outage[s.name] = longestGap(g.book.ops, s.name, true)
		res.readGap = max(res.readGap, longestGap(g.book.ops, s.name, false))
	}
	res.missed = g.book.missed
	res.writes, res.reads = failures(g.book.ops, true), failures(g.book.ops, false)
	res.took = time.Since(began)
	return res, nil
}

// begin breaks the old master, and waits until clients have noticed it if the dice say so.
func (f *failover) begin(ctx context.Context) error {
	if f.asynchronous {
		if err := f.cluster.SetSynchronous(ctx, f.nodes[f.old], 0); err != nil {
			return err
		}
	}
	if err := f.strike(f, ctx); err != nil || !f.noticed {
		return err
	}
	return f.services[1].await(ctx, "the fault to be noticed", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
}

// promote does what a failover manager does.
func (f *failover) promote(ctx context.Context) error {
	if err := f.elect(ctx); err != nil {
		return err
	}
	if f.twice {
		return f.dethrone(ctx)
	}
	return f.progress(ctx, f.idle)
}

// idle reports whether a client gets nothing done before the fault has ended.
func (f *failover) idle(c *client) bool { return f.split && c.proxied || f.backward && !c.writes }

// elect takes the standbys from the old master, so that it can acknowledge nothing any more, promotes the one that has
// most, and points the other one to it. In a backward round it promotes the one that has least, and the other one has
// diverged.
func (f *failover) elect(ctx context.Context) error {
	standbys := f.others(f.old)
	var received [2]uint64
	for i, standby := range standbys {
		var err error
		if received[i], err = f.nodes[standby].Detach(ctx); err != nil {
			return err
		}
	}
	f.next = standbys[0]
	other := standbys[1]
	if (received[1] > received[0]) != f.backward {
		f.next, other = other, f.next
	}
	if f.isolates {
		f.touch(f.next)
		if err := f.proxies[f.next].Cut(); err != nil {
			return err
		}
	}
	if f.backward {
		f.touch(other)
		f.fallen = append(f.fallen, other)
		f.crown(other)
		return f.nodes[f.next].Promote(ctx)
	}
	f.crown()
	if err := f.nodes[f.next].Promote(ctx); err != nil {
		return err
	}
	return f.nodes[other].Follow(ctx, f.nodes[f.next])
}

// crown begins the reign of the next master, just before its promotion: nobody else can acknowledge a write from now on,
// but in an asynchronous round to services that do not know.
func (f *failover) crown(doubtful ...int) {
	r := &reign{node: f.next, epoch: f.master.Load().epoch, lossy: f.asynchronous, doubtful: doubtful}
	if r.lossy {
		r.epoch++
	}
	f.master.Store(r)
}

// dethrone kills the new master as soon as it has a replica, which becomes the next one.
func (f *failover) dethrone(ctx context.Context) error {
	second := f.next
	for _, i := range f.others(f.old) {
		if i != second {
			f.next = i
		}
	}
	if err := f.nodes[f.next].WaitStreaming(ctx, f.nodes[second]); err != nil {
		return err
	}
	f.touch(second)
	f.fallen = append(f.fallen, second)
	if err := f.nodes[second].Kill(); err != nil {
		return err
	}
	f.crown()
	return f.nodes[f.next].Promote(ctx)
}

// end ends the fault, and sees that the old master is fenced if it lives on.
func (f *failover) end(ctx context.Context) error {
	if f.undo != nil {
		if err := f.undo(f); err != nil {
			return err
		}
	}
	if !f.lives {
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
		return fmt.Errorf("beside the stale master: %w", err)
	}
	return nil
}

// rejoin makes replicas of those that have fallen, and sees that the services go on with a whole cluster.
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

// doubt says of which replicas the position may not tell what they show.
func (f *failover) doubt(nodes []int) {
	r := *f.master.Load()
	r.doubtful = nodes
	f.master.Store(&r)
}
