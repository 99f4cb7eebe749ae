package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
)

// kind is a way for a master to be replaced.
type kind struct {
	name, about string
	strike      func(*failover, context.Context) error
	undo        func(*failover) error // what ends the fault, after the promotion; nil if nothing does
	lives       bool                  // the old master is still a master after all that
	unseen      bool                  // clients cannot notice before the promotion

	asynchronous bool // the master waits for no replica, so that acknowledged writes may be lost
	backward     bool // the replica that has less is promoted, and the other one has diverged
	twice        bool // the new master is killed too
	isolates     bool // the proxied services are cut from the new master before its promotion
	orderly      bool // the master sends back undone what it cannot finish
	split        bool // the proxied services get nothing done before the fault has ended
}

var kinds = []kind{
	{name: "crash", about: "kill -9 of every process of the master", strike: (*failover).kill},
	{name: "crash-behind", about: "as crash, while one replica lacks the last writes", strike: (*failover).killAhead},
	{name: "crash-unheard", about: "as crash, while both replicas are frozen and acknowledge nothing", strike: (*failover).killUnheard},
	{name: "crash-twice", about: "as crash, and then the new master", strike: (*failover).kill, twice: true},
	{
		name: "crash-backward", about: "as crash, without synchronous replication; the replica that has less is promoted",
		strike: (*failover).killFarAhead, asynchronous: true, backward: true,
	},
	{name: "postmaster", about: "kill -9 of the master's first process alone", strike: (*failover).killPostmaster},
	{name: "stop-fast", about: "an orderly shutdown: a switchover", strike: stop(pgcluster.StopFast), orderly: true},
	{name: "stop-immediate", about: "a shutdown without order", strike: stop(pgcluster.StopImmediate)},
	{
		name: "stop-unheard", about: "as stop-fast, after the end of sessions that wait for frozen replicas",
		strike: (*failover).dismiss,
	},
	{name: "promotion", about: "a promotion beside a master that goes on", strike: (*failover).nothing, lives: true, unseen: true},
	{
		name: "promotion-async", about: "as promotion, without synchronous replication",
		strike: (*failover).nothing, lives: true, unseen: true, asynchronous: true,
	},
	{
		name: "promotion-hidden", about: "as promotion, with silence between the proxied services and the new master",
		strike: (*failover).nothing, undo: (*failover).heal, lives: true, unseen: true, isolates: true, split: true,
	},
	{
		name: "minority", about: "as promotion, with silence between the proxied services and both replicas",
		strike: (*failover).separate, undo: (*failover).heal, lives: true, unseen: true, split: true,
	},
	{name: "freeze", about: "SIGSTOP of every process of the master, thawed later", strike: (*failover).freeze, undo: (*failover).thaw, lives: true},
	{
		name: "partition", about: "silence between the proxied services and the master",
		strike: between((*pgproxy.Proxy).Cut), undo: (*failover).heal, lives: true,
	},
	{
		name: "partition-out", about: "as partition, what clients send alone is lost",
		strike: between((*pgproxy.Proxy).CutToServer), undo: (*failover).heal, lives: true,
	},
	{
		name: "partition-in", about: "as partition, what the master sends alone is lost",
		strike: between((*pgproxy.Proxy).CutToClient), undo: (*failover).heal, lives: true,
	},
	{
		name: "refusal", about: "resets and refusals between the proxied services and the master",
		strike: between((*pgproxy.Proxy).Refuse), undo: (*failover).heal, lives: true,
	},
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
