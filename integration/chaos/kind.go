package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// kind is a way for a master to be replaced.
type kind struct {
	name, about string
	strike      func(*game, context.Context) error
	undo        func(*game) error // what ends the fault, after the promotion; nil if nothing does
	lives       bool              // the old master is still a master after all that
	unseen      bool              // clients cannot notice before the promotion
}

var kinds = []kind{
	{name: "crash", about: "kill -9 of every process of the master", strike: (*game).kill},
	{name: "crash-behind", about: "as crash, while one replica lacks the last writes", strike: (*game).killAhead},
	{name: "postmaster", about: "kill -9 of the master's first process alone", strike: (*game).killPostmaster},
	{name: "stop-fast", about: "an orderly shutdown: a switchover", strike: stop(pgcluster.StopFast)},
	{name: "stop-immediate", about: "a shutdown without order", strike: stop(pgcluster.StopImmediate)},
	{name: "promotion", about: "a promotion beside a master that goes on", strike: (*game).nothing, lives: true, unseen: true},
	{name: "freeze", about: "SIGSTOP of every process of the master, thawed later", strike: (*game).freeze, undo: (*game).thaw, lives: true},
	{name: "partition", about: "silence between the proxied service and the master", strike: (*game).cut, undo: (*game).heal, lives: true},
	{name: "partition-out", about: "as partition, what clients send alone is lost", strike: (*game).cutToServer, undo: (*game).heal, lives: true},
	{name: "partition-in", about: "as partition, what the master sends alone is lost", strike: (*game).cutToClient, undo: (*game).heal, lives: true},
	{name: "refusal", about: "resets and refusals between the proxied service and the master", strike: (*game).refuse, undo: (*game).heal, lives: true},
}

// round is one failover as the dice have it.
type round struct {
	kind
	noticed bool // the promotion comes after clients have noticed the fault, else at once
	rebuild bool // the old master comes back by a base backup, else by pg_rewind
}

func (r round) String() string {
	words := []string{r.name}
	if r.noticed {
		words = append(words, "noticed")
	}
	if r.rebuild {
		words = append(words, "rebuild")
	}
	return strings.Join(words, ", ")
}

// deal returns n rounds. No kind comes a third time before every kind came twice.
func deal(dice *rand.Rand, among []kind, n int) (rounds []round) {
	var deck []kind
	for len(rounds) < n {
		if len(deck) == 0 {
			deck = slices.Clone(among)
			dice.Shuffle(len(deck), func(i, k int) { deck[i], deck[k] = deck[k], deck[i] })
		}
		r := round{kind: deck[0], noticed: dice.IntN(2) == 0, rebuild: dice.IntN(4) == 0}
		r.noticed = r.noticed && !r.unseen
		rounds, deck = append(rounds, r), deck[1:]
	}
	return rounds
}

// chosen returns the kinds of these names, all for none.
func chosen(names string) (list []kind, err error) {
	if names == "" {
		return kinds, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no kind %q", name)
		}
		list = append(list, kinds[i])
	}
	return list, nil
}

func (g *game) old() *pgcluster.Node { return g.nodes[g.master.Load().node] }

func (g *game) nothing(context.Context) error        { return nil }
func (g *game) kill(context.Context) error           { return g.old().Kill() }
func (g *game) killPostmaster(context.Context) error { return g.old().KillPostmaster() }
func (g *game) freeze(context.Context) error         { return g.old().Freeze() }
func (g *game) cut(context.Context) error            { return g.proxies[g.master.Load().node].Cut() }

func (g *game) cutToServer(context.Context) error {
	return g.proxies[g.master.Load().node].CutToServer()
}

func (g *game) cutToClient(context.Context) error {
	return g.proxies[g.master.Load().node].CutToClient()
}
func (g *game) refuse(context.Context) error { return g.proxies[g.master.Load().node].Refuse() }

func stop(mode pgcluster.StopMode) func(*game, context.Context) error {
	return func(g *game, ctx context.Context) error { return g.old().Stop(ctx, mode) }
}

// killAhead freezes a replica while writes go on, so that the other one alone has them, and kills the master.
func (g *game) killAhead(ctx context.Context) error {
	behind := g.others(g.master.Load().node)[0]
	g.touch(behind)
	if err := g.nodes[behind].Freeze(); err != nil {
		return err
	}
	if err := g.progress(ctx, g.writers()); err != nil {
		return err
	}
	if err := g.old().Kill(); err != nil {
		return err
	}
	return g.nodes[behind].Thaw()
}

func (g *game) thaw() error { return g.struck.Thaw() }

func (g *game) heal() error {
	for _, p := range g.proxies {
		if err := p.Heal(); err != nil {
			return err
		}
	}
	return nil
}
