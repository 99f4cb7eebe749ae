package hasql

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A plan is all that a seed decides: how the cluster and the client are set up, and what is done to them when. It is a
// value, made before anything runs, so that a failing one can be cut down step by step.
type plan struct {
	seed uint64

	synchronous bool // a commit waits for a replica
	monitor     bool // the role has pg_monitor, so standbys tell their timeline
	fallback    bool
	latency     [3]time.Duration
	dialTime    [3]time.Duration
	maxConns    int
	maxLag      time.Duration // of reads that must not be too old

	checkInterval, downTimeout, recoveryInterval, acquireTimeout time.Duration

	steps []step
}

// step is one thing done at one moment. What makes no sense at that moment (there is nothing to thaw) does nothing, so
// any subset of steps is a schedule again.
type step struct {
	at   time.Duration
	do   action
	node int           // its index, theMaster or everyNode
	wait time.Duration // of slow, the latency; of slow-dials, what one takes; of hog and lock, how long
	draw int           // what else there is to choose
}

const (
	theMaster = -1
	everyNode = -2
)

func (s step) String() string {
	node := fmt.Sprintf("pg%d", s.node+1)
	switch s.node {
	case theMaster:
		node = "master"
	case everyNode:
		node = "all"
	}
	return fmt.Sprintf("%s %s %v", s.do, node, s.wait)
}

// spec names a plan: a seed, and which of its steps are kept, all if there is no list: 7 or 7:0,3,4.
type spec struct {
	seed uint64
	keep []int
	some bool
}

func (s spec) String() string {
	text := strconv.FormatUint(s.seed, 10)
	if !s.some {
		return text
	}
	var kept []string
	for _, i := range s.keep {
		kept = append(kept, strconv.Itoa(i))
	}
	return text + ":" + strings.Join(kept, ",")
}

func parseSpec(text string) (s spec, err error) {
	seed, list, some := strings.Cut(text, ":")
	s.some = some
	if s.seed, err = strconv.ParseUint(seed, 10, 64); err != nil || list == "" {
		return s, err
	}
	for number := range strings.SplitSeq(list, ",") {
		i, err := strconv.Atoi(number)
		if err != nil {
			return s, err
		}
		s.keep = append(s.keep, i)
	}
	steps := len(spec{seed: s.seed}.plan().steps)
	for _, i := range s.keep {
		if i < 0 || i >= steps {
			return s, fmt.Errorf("seed %d has no step %d: it has steps 0 to %d", s.seed, i, steps-1)
		}
	}
	return s, nil
}

// plan makes the plan that s names.
func (s spec) plan() plan {
	r := rand.New(rand.NewPCG(s.seed, 0))
	p := plan{
		seed:             s.seed,
		synchronous:      r.IntN(2) == 0,
		monitor:          r.IntN(2) == 0,
		fallback:         r.IntN(3) == 0,
		maxConns:         2 + r.IntN(3),
		checkInterval:    oneOf(r, 300*time.Millisecond, 500*time.Millisecond, time.Second),
		downTimeout:      oneOf(r, 800*time.Millisecond, 1500*time.Millisecond, 3*time.Second),
		recoveryInterval: oneOf(r, 10*time.Millisecond, 20*time.Millisecond, 40*time.Millisecond),
		acquireTimeout:   oneOf(r, time.Second, 3*time.Second),
	}
	for i := range p.latency {
		p.latency[i] = between(r, 150*time.Microsecond, 900*time.Microsecond)
	}
	if r.IntN(4) == 0 { // connecting takes long, though all is well
		for i := range p.dialTime {
			p.dialTime[i] = between(r, 0, 700*time.Millisecond)
		}
	}
	p.maxLag = p.checkInterval + p.checkInterval/4 + between(r, 0, 500*time.Millisecond)
	g := generator{Rand: r, now: 400 * time.Millisecond, synchronous: p.synchronous}
	for range 4 + r.IntN(4) {
		g.episode()
	}
	if r.IntN(8) == 0 {
		g.now = between(r, 0, g.now)
		g.add(doClosing, theMaster)
	}
	slices.SortStableFunc(g.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	if p.steps = g.steps; s.some {
		p.steps = nil
		for _, i := range s.keep {
			p.steps = append(p.steps, g.steps[i])
		}
	}
	return p
}

// generator writes a schedule, episode by episode.
type generator struct {
	*rand.Rand
	now         time.Duration
	synchronous bool
	steps       []step
}

func oneOf[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// between draws a duration to the nanosecond, so that hardly ever two things happen at one instant.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

func (g *generator) add(do action, node int) { g.later(0, do, node, 0) }

func (g *generator) later(after time.Duration, do action, node int, wait time.Duration) {
	g.steps = append(g.steps, step{at: g.now + after, do: do, node: node, wait: wait, draw: g.IntN(1 << 20)})
}

func (g *generator) pass(least, most time.Duration) { g.now += between(g.Rand, least, most) }

func (g *generator) episode() {
	switch n := g.IntN(20); {
	case n < 13:
		g.failover()
	case n < 14:
		g.split()
	case n < 16:
		g.flap()
	case n < 17:
		g.doublePromotion()
	case n < 18:
		g.special()
	default:
		g.noise()
		g.noise()
		g.pass(100*time.Millisecond, time.Second)
	}
}

// failover takes the master away, lets a replica take over, and brings the old one back: first as the master that it
// believes to be, then as a replica.
func (g *generator) failover() {
	fault := oneOf(g.Rand, doCrash, doCrash, doStop, doStopAtOnce, doFreeze, doFreeze, doCut, doCutRequests, doCutAnswers, doNothing)
	g.add(fault, theMaster)
	g.noise()
	g.pass(10*time.Millisecond, 500*time.Millisecond)
	g.add(g.promotion(), g.IntN(3))
	g.noise()
	g.pass(20*time.Millisecond, 1200*time.Millisecond)
	g.cure()
	g.noise()
	g.pass(10*time.Millisecond, 600*time.Millisecond)
	g.add(doRejoin, theMaster)
	g.pass(30*time.Millisecond, 600*time.Millisecond)
}

func (g *generator) promotion() action {
	if g.synchronous { // what is acknowledged must survive, so only who has all of it may take over
		return doPromote
	}
	return oneOf(g.Rand, doPromote, doPromote, doPromote, doPromoteAny, doPromoteAlone)
}

// cure ends crashes, freezes and cuts, in any order.
func (g *generator) cure() {
	for _, i := range g.Perm(3) {
		g.add([]action{doStart, doThaw, doHeal}[i], theMaster)
		g.pass(0, 20*time.Millisecond)
	}
}

// flap breaks and mends one node several times in quick succession.
func (g *generator) flap() {
	pair := oneOf(g.Rand, [2]action{doFreeze, doThaw}, [2]action{doCut, doHeal}, [2]action{doCutAnswers, doHeal}, [2]action{doCrash, doStart})
	node := g.IntN(4) - 1
	for range 2 + g.IntN(5) {
		g.add(pair[0], node)
		g.pass(time.Millisecond, 300*time.Millisecond)
		g.add(pair[1], node)
		g.pass(time.Millisecond, 200*time.Millisecond)
	}
}

// doublePromotion makes a second replica take over before the first was heard of.
func (g *generator) doublePromotion() {
	g.add(oneOf(g.Rand, doFreeze, doCut, doCrash), theMaster)
	g.pass(10*time.Millisecond, 300*time.Millisecond)
	g.add(g.promotion(), g.IntN(3))
	g.pass(0, 60*time.Millisecond)
	g.add(g.promotion(), g.IntN(3))
	g.pass(20*time.Millisecond, 800*time.Millisecond)
	g.cure()
	g.pass(10*time.Millisecond, 500*time.Millisecond)
	g.add(doRejoin, theMaster)
	g.pass(30*time.Millisecond, 400*time.Millisecond)
}

// split cuts every node off from every other, and lets two replicas take over that know nothing of each other.
func (g *generator) split() {
	g.add(doCutAll, theMaster)
	g.pass(10*time.Millisecond, 500*time.Millisecond)
	g.add(g.promotion(), g.IntN(3))
	g.pass(0, 100*time.Millisecond)
	if !g.synchronous {
		g.add(doPromoteAlone, g.IntN(3))
	}
	g.pass(0, 500*time.Millisecond)
	g.add(doHeal, theMaster)
	g.pass(10*time.Millisecond, time.Second)
	g.add(doRejoin, theMaster)
	g.pass(30*time.Millisecond, 400*time.Millisecond)
}

// special is one of the rarer ways for things to go wrong.
func (g *generator) special() {
	oneOf(g.Rand, g.spell, g.trail, g.diverge, g.jam, g.refuse, g.resize, g.resize)()
}

// spell makes the database read-only for whatever session begins during it, and then writable again.
func (g *generator) spell() {
	g.add(doAlter, theMaster)
	g.pass(0, 50*time.Millisecond)
	if g.IntN(2) == 0 {
		g.add(doTerminateAll, theMaster)
	}
	g.noise()
	g.pass(10*time.Millisecond, 1500*time.Millisecond)
	if g.IntN(3) == 0 {
		g.add(g.promotion(), g.IntN(3))
		g.pass(10*time.Millisecond, 300*time.Millisecond)
	}
	g.add(doReset, theMaster)
	g.pass(30*time.Millisecond, 2*time.Second)
	g.add(doRejoin, theMaster)
}

// trail keeps a replica far behind.
func (g *generator) trail() {
	node := g.IntN(3)
	g.add(doPause, node)
	g.noise()
	g.pass(time.Second, 4*time.Second)
	g.noise()
	g.add(doResume, node)
	g.pass(10*time.Millisecond, 300*time.Millisecond)
}

// diverge promotes a replica that lacks what the other one has. Under synchronous replication nobody may do that.
func (g *generator) diverge() {
	if g.synchronous {
		g.failover()
		return
	}
	behind := g.IntN(3)
	g.add(doPause, behind)
	g.pass(100*time.Millisecond, 700*time.Millisecond)
	g.add(oneOf(g.Rand, doCrash, doStop, doFreeze, doCut), theMaster)
	g.pass(10*time.Millisecond, 300*time.Millisecond)
	g.add(doPromoteAny, behind)
	g.add(doResume, theMaster)
	g.noise()
	g.pass(200*time.Millisecond, 2500*time.Millisecond)
	g.cure()
	g.pass(10*time.Millisecond, 500*time.Millisecond)
	g.add(doRejoin, theMaster)
	g.pass(30*time.Millisecond, 400*time.Millisecond)
}

// jam makes reads on one node wait for a lock, more of them than its pool has connections.
func (g *generator) jam() {
	length := between(g.Rand, 100*time.Millisecond, 2*time.Second)
	node := g.IntN(3)
	g.later(0, doLock, node, length)
	g.later(length, doUnlock, node, 0)
	g.noise()
	g.pass(length/2, length)
}

// resize takes a node out of the list, or all but one, and back in, with a failover in between or not.
func (g *generator) resize() {
	g.add(oneOf(g.Rand, doLeave, doLeave, doWrongList), g.IntN(4)-1)
	g.noise()
	g.pass(100*time.Millisecond, 3*time.Second)
	if g.IntN(2) == 0 {
		g.failover()
	}
	g.add(doList, theMaster)
	g.pass(10*time.Millisecond, time.Second)
}

// refuse lets nobody in any more, or lets everybody wait at the door: the master's, or all.
func (g *generator) refuse() {
	node := oneOf(g.Rand, theMaster, everyNode)
	if g.IntN(2) == 0 {
		g.later(0, doSlowDials, node, between(g.Rand, 50*time.Millisecond, 900*time.Millisecond))
	} else {
		g.add(doRefuse, node)
	}
	g.pass(0, 300*time.Millisecond)
	if g.IntN(2) == 0 {
		g.add(doTerminateAll, node)
	}
	g.noise()
	g.pass(10*time.Millisecond, 2*time.Second)
	g.add(doAccept, theMaster)
	g.add(doFastDials, theMaster)
	g.pass(10*time.Millisecond, 300*time.Millisecond)
}

// noise is, half of the time, one more thing that goes wrong at about now, and its end if it has one.
func (g *generator) noise() {
	if g.IntN(2) == 0 {
		return
	}
	after := between(g.Rand, 0, 100*time.Millisecond)
	n := noises[g.IntN(len(noises))]
	node := g.IntN(4) - 1
	g.later(after, n.do, node, between(g.Rand, n.least, n.most))
	if n.end != "" {
		g.later(after+between(g.Rand, 5*time.Millisecond, 700*time.Millisecond), n.end, node, 0)
	}
}

var noises = []struct {
	do, end     action
	least, most time.Duration
}{
	{do: doTerminate},
	{do: doTerminateAll},
	{do: doBackendCrash},
	{do: doRestart},
	{do: doRefuse, end: doAccept},
	{do: doStartingUp, end: doStarted},
	{do: doSlow, end: doFast, least: 5 * time.Millisecond, most: 700 * time.Millisecond},
	{do: doPause, end: doResume},
	{do: doRename, end: doUnname},
	{do: doReadOnly, end: doReadWrite},
	{do: doAlter, end: doReset},
	{do: doLock, end: doUnlock, least: 50 * time.Millisecond, most: 700 * time.Millisecond},
	{do: doSlowDials, end: doFastDials, least: 50 * time.Millisecond, most: 900 * time.Millisecond},
	{do: doHog, least: 10 * time.Millisecond, most: 600 * time.Millisecond},
	{do: doCancelAll},
	{do: doLeave, end: doList},
	{do: doRelabel, end: doList},
	{do: doWrongList, end: doList},
	{do: doFindNothing, end: doList},
	{do: doCheck},
	{do: doFreeze, end: doThaw},
	{do: doCut, end: doHeal},
	{do: doCutAll, end: doHeal},
}

func TestSpecOfAStepThatDoesNotExist(t *testing.T) {
	for _, text := range []string{"7:99", "7:0,-1"} {
		if _, err := parseSpec(text); err == nil || !strings.Contains(err.Error(), "seed 7 has no step") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := parseSpec("7:0,1"); err != nil {
		t.Error(err)
	}
}
