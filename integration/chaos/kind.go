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

// kind is a kind of failover.
type kind struct {
	name, about string
	inject      func(*failover, context.Context) error
	undo        func(*failover) error // ends the fault after the promotion; nil: nothing ends it
	survives    bool                  // the old master still takes itself for the master afterwards
	unseen      bool                  // clients cannot notice the fault before the promotion

	asynchronous bool // the master waits for no replica, so that acknowledged writes may be lost
	backward     bool // the replica that has received less is promoted, so the other one has diverged
	twice        bool // the new master is killed too
	isolates     bool // the proxied services are cut off from the new master before its promotion
	orderly      bool // the master refuses, without effect, the writes that it cannot finish
	split        bool // the proxied services make no progress before the fault has ended
}

var kinds = []kind{
	{name: "crash", about: "kill -9 of every process of the master", inject: (*failover).kill},
	{name: "crash-behind", about: "as crash, while one replica lacks the last writes", inject: (*failover).killAhead},
	{name: "crash-unheard", about: "as crash, while both replicas are frozen and acknowledge nothing", inject: (*failover).killUnheard},
	{name: "crash-twice", about: "as crash, and then the new master", inject: (*failover).kill, twice: true},
	{
		name: "crash-backward", about: "as crash, without synchronous replication; the replica that has less is promoted",
		inject: (*failover).killFarAhead, asynchronous: true, backward: true,
	},
	{name: "postmaster", about: "kill -9 of the master's first process only", inject: (*failover).killPostmaster},
	{name: "stop-fast", about: "a fast shutdown: a switchover", inject: stop(pgcluster.StopFast), orderly: true},
	{name: "stop-immediate", about: "an immediate shutdown", inject: stop(pgcluster.StopImmediate)},
	{
		name: "stop-unheard", about: "as stop-fast, after the end of sessions that wait for frozen replicas",
		inject: (*failover).dismiss,
	},
	{name: "promotion", about: "a promotion beside a master that goes on", inject: (*failover).nothing, survives: true, unseen: true},
	{
		name: "promotion-async", about: "as promotion, without synchronous replication",
		inject: (*failover).nothing, survives: true, unseen: true, asynchronous: true,
	},
	{
		name: "promotion-hidden", about: "as promotion, with silence between the proxied services and the new master",
		inject: (*failover).nothing, undo: (*failover).heal, survives: true, unseen: true, isolates: true, split: true,
	},
	{
		name: "minority", about: "as promotion, with silence between the proxied services and both replicas",
		inject: (*failover).separate, undo: (*failover).heal, survives: true, unseen: true, split: true,
	},
	{name: "freeze", about: "SIGSTOP of every process of the master, thawed later", inject: (*failover).freeze, undo: (*failover).thaw, survives: true},
	{
		name: "partition", about: "silence between the proxied services and the master",
		inject: between((*pgproxy.Proxy).Cut), undo: (*failover).heal, survives: true,
	},
	{
		name: "partition-out", about: "as partition, but only what clients send is lost",
		inject: between((*pgproxy.Proxy).CutToServer), undo: (*failover).heal, survives: true,
	},
	{
		name: "partition-in", about: "as partition, but only what the master sends is lost",
		inject: between((*pgproxy.Proxy).CutToClient), undo: (*failover).heal, survives: true,
	},
	{
		name: "refusal", about: "resets and refusals between the proxied services and the master",
		inject: between((*pgproxy.Proxy).Refuse), undo: (*failover).heal, survives: true,
	},
}

// round is one failover as it was drawn.
type round struct {
	kind
	noticed bool // the promotion waits until clients have noticed the fault
	rebuild bool // the old master comes back by a base backup instead of pg_rewind
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

// drawRounds draws n rounds. No kind comes a third time before every kind has come twice.
func drawRounds(rng *rand.Rand, among []kind, n int) (rounds []round) {
	var deck []kind
	for len(rounds) < n {
		if len(deck) == 0 {
			deck = slices.Clone(among)
			rng.Shuffle(len(deck), func(i, k int) { deck[i], deck[k] = deck[k], deck[i] })
		}
		r := round{kind: deck[0], noticed: rng.IntN(2) == 0, rebuild: rng.IntN(4) == 0}
		r.noticed = r.noticed && !r.unseen
		rounds, deck = append(rounds, r), deck[1:]
	}
	return rounds
}

// kindsByName returns the kinds with these names, separated by commas. "" means all kinds.
func kindsByName(names string) (list []kind, err error) {
	if names == "" {
		return kinds, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no kind %q", name)
		}
		list = append(list, kinds[i])
	}
	return list, nil
}
