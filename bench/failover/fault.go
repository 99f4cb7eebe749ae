package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
)

// fault is a fault of a cluster, and what a failover manager does about it.
type fault struct {
	name, about string
	proxied     bool // the clients reach each node through a proxy, else directly
	idle        bool // the clients pause from before the fault until a step wakes them
	unpromoted  bool // no replica is promoted
	plan        func(timing) schedule
}

// timing says when the steps of a run happen. Every time is counted from the fault.
type timing struct {
	promote time.Duration // the promotion
	heal    time.Duration // the end of the fault, if it ends before the run
	stray   time.Duration // from heal to the end of the run
	calm    time.Duration // from the last step to the end of the run, if the fault does not end
}

// schedule is what happens in one run.
type schedule struct {
	steps []step
	end   time.Duration
}

// step happens at its time. If the step before is not done by then, it happens as soon as that is done.
type step struct {
	at   time.Duration
	mark string // its name in the timeline
	do   func(*trial, context.Context) error
}

var faults = []fault{
	{
		name: "crash", about: "kill -9 of the master's whole node, then a promotion",
		plan: failover((*trial).kill),
	},
	{
		name: "stop-fast", about: "a fast shutdown of the master, then a promotion",
		plan: failover(stop(pgcluster.StopFast)),
	},
	{
		name: "stop-immediate", about: "an immediate shutdown of the master, then a promotion",
		plan: failover(stop(pgcluster.StopImmediate)),
	},
	{
		name: "switchover", about: "as stop-fast, but the promotion comes as soon as the master is down",
		plan: switchover,
	},
	{
		name: "freeze", about: "SIGSTOP of the master's whole node, then a promotion; the old master is thawed later",
		plan: comeback((*trial).freeze, "thaw", (*trial).thaw),
	},
	{
		name: "partition", about: "no packets between clients and master, which goes on; then a promotion; healed later",
		proxied: true, plan: comeback(cut((*pgproxy.Proxy).Cut), "heal", (*trial).heal),
	},
	{
		name: "partition-in", about: "as partition, but only what the master sends to the clients is lost",
		proxied: true, plan: comeback(cut((*pgproxy.Proxy).CutToClient), "heal", (*trial).heal),
	},
	{
		name: "partition-out", about: "as partition, but only what the clients send to the master is lost",
		proxied: true, plan: comeback(cut((*pgproxy.Proxy).CutToServer), "heal", (*trial).heal),
	},
	{
		name: "replica-death", about: "kill -9 of the first replica in the DSN; the master stays healthy",
		unpromoted: true, plan: replicaDeath,
	},
	{
		name: "idle-promotion", about: "a promotion while the clients pause and the old master goes on; they wake 2 s later",
		idle: true, plan: idlePromotion,
	},
}

// schedule returns what happens in one run, in order.
func (f fault) schedule(t timing) schedule {
	s := f.plan(t)
	slices.SortStableFunc(s.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return s
}

type action = func(*trial, context.Context) error

// electTime is the part of the time before a promotion in which the failover manager elects the next master.
const electTime = 100 * time.Millisecond

// promotion is what a failover manager does: it elects the next master, and promotes it at the given time.
func promotion(at time.Duration) []step {
	return []step{{max(at-electTime, 0), "election", (*trial).elect}, {at, "promotion", (*trial).promote}}
}

// failover is a fault that lasts, and a promotion.
func failover(inject action) func(timing) schedule {
	return func(t timing) schedule {
		return schedule{
			steps: append([]step{{0, "fault", inject}}, promotion(t.promote)...),
			end:   t.promote + t.calm,
		}
	}
}

// comeback is a fault that ends after the promotion. The stale master does not know of the promotion.
func comeback(inject action, mark string, undo action) func(timing) schedule {
	return func(t timing) schedule {
		return schedule{
			steps: append([]step{{0, "fault", inject}, {t.heal, mark, undo}}, promotion(t.promote)...),
			end:   max(t.heal, t.promote) + t.stray,
		}
	}
}

func switchover(t timing) schedule {
	return schedule{
		steps: append([]step{{0, "fault", stop(pgcluster.StopFast)}}, promotion(0)...),
		end:   t.promote + t.calm,
	}
}

func replicaDeath(t timing) schedule {
	return schedule{steps: []step{{0, "fault", (*trial).killReplica}}, end: t.promote + t.calm}
}

// idleTime is longer than the default hasql_check_interval, so that every probe interval has seen the promotion.
const idleTime = 2 * time.Second

func idlePromotion(t timing) schedule {
	return schedule{
		steps: append(promotion(0), step{idleTime, wakeMark, (*trial).wake}),
		end:   idleTime + t.calm,
	}
}

func (t *trial) kill(context.Context) error        { return t.nodes[t.old].Kill() }
func (t *trial) freeze(context.Context) error      { return t.nodes[t.old].Freeze() }
func (t *trial) thaw(context.Context) error        { return t.nodes[t.old].Thaw() }
func (t *trial) heal(context.Context) error        { return t.proxies[t.old].Heal() }
func (t *trial) killReplica(context.Context) error { return t.nodes[t.old+1].Kill() }

func (t *trial) wake(ctx context.Context) error {
	t.load.start(ctx)
	return nil
}

func stop(mode pgcluster.StopMode) action {
	return func(t *trial, ctx context.Context) error { return t.nodes[t.old].Stop(ctx, mode) }
}

func cut(how func(*pgproxy.Proxy) error) action {
	return func(t *trial, _ context.Context) error { return how(t.proxies[t.old]) }
}
