package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
)

// fault is something that happens to a cluster, and what is done about it.
type fault struct {
	name, about string
	proxied     bool // the clients reach each node through a proxy, else directly
	idle        bool // the clients rest from before the fault until a step wakes them
	unpromoted  bool // no replica is promoted
	plan        func(timing) schedule
}

// timing is when things happen, counted from the fault.
type timing struct {
	promote time.Duration // the promotion
	heal    time.Duration // the end of the fault, if it has one before the run's
	stray   time.Duration // from there to the run's end
	calm    time.Duration // to the run's end where nothing more happens
}

// schedule is what happens in one run.
type schedule struct {
	steps []step
	end   time.Duration
}

// step happens at its time, or when the step before is done if that is later.
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
		name: "stop-fast", about: "the master is shut down in order, then a promotion",
		plan: failover(stop(pgcluster.StopFast)),
	},
	{
		name: "stop-immediate", about: "the master is shut down without order, then a promotion",
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
		name: "partition", about: "silence between clients and master, which lives on; then a promotion; healed later",
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
		name: "replica-death", about: "kill -9 of the replica that comes first in the DSN; the master is well",
		unpromoted: true, plan: replicaDeath,
	},
	{
		name: "idle-promotion", about: "a promotion while the clients rest, the old master lives on; they wake 2 s later",
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

// failover is a fault that lasts, and a promotion.
func failover(strike action) func(timing) schedule {
	return func(t timing) schedule {
		return schedule{
			steps: []step{{0, "fault", strike}, {t.promote, "promotion", (*trial).promote}},
			end:   t.promote + t.calm,
		}
	}
}

// comeback is a fault that ends after the promotion, with a stale master that knows of nothing.
func comeback(strike action, mark string, undo action) func(timing) schedule {
	return func(t timing) schedule {
		return schedule{
			steps: []step{{0, "fault", strike}, {t.promote, "promotion", (*trial).promote}, {t.heal, mark, undo}},
			end:   max(t.heal, t.promote) + t.stray,
		}
	}
}

func switchover(t timing) schedule {
	return schedule{
		steps: []step{{0, "fault", stop(pgcluster.StopFast)}, {0, "promotion", (*trial).promote}},
		end:   t.promote + t.calm,
	}
}

func replicaDeath(t timing) schedule {
	return schedule{steps: []step{{0, "fault", (*trial).killReplica}}, end: t.promote + t.calm}
}

// idleTime is longer than the default hasql_check_interval: whoever looks at all has had the chance to see the promotion.
const idleTime = 2 * time.Second

func idlePromotion(t timing) schedule {
	return schedule{
		steps: []step{{0, "promotion", (*trial).promote}, {idleTime, wakeMark, (*trial).wake}},
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
