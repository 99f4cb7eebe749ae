package hasql

import (
	"strings"
	"testing"
	"time"
)

// members makes the i-th nodes of a list that begins with the present ones.
func (w *world) members(list ...*node) *world {
	w.now = w.now.Add(time.Millisecond)
	w.s = reduce(w.s, membership{asConfigured(list), w.now}, w.rules)
	return w
}

func (w *world) departs(n *node) *world {
	w.s = reduce(w.s, departure{n, w.now}, w.rules)
	return w
}

// A counter that decreases for a moment looks like the restart of a process to whoever computes rates of it.
func TestWhatLeftNodesHadLentStaysCounted(t *testing.T) {
	w := newWorld(2).sees(0, master(2, 9)).sees(1, replica(9))
	a, b := w.node(0), w.node(1)
	a.acquires[TargetAny].Store(3)
	b.acquires[TargetAny].Store(4)
	b.acquires[TargetReplica].Store(5)
	w.members(a).departs(a).departs(b).departs(b)
	if want := [targets]int64{TargetAny: 4, TargetReplica: 5}; w.s.Len() != 1 || w.s.departedAcquires != want {
		t.Errorf("%d nodes, %v", w.s.Len(), w.s.departedAcquires)
	}
}

func TestMembership(t *testing.T) {
	w := newWorld(3).sees(0, master(2, 9)).sees(1, replica(9)).sees(2, replica(9))
	a, b, c, d := w.node(0), w.node(1), w.node(2), fakeNode(3)
	var joined, left int
	count := func(prev *Snapshot) {
		joined, left = 0, 0
		for t := range transitions(prev, w.s) {
			if t.joined() {
				joined++
			}
			if t.left() {
				left++
			}
		}
	}
	for _, step := range []struct {
		name         string
		do           func()
		view         string
		joined, left int
	}{
		{"the fourth joins, in front", func() { w.members(d, a, b, c) }, "suspect M R R", 1, 0},
		{"it answers", func() { w.sees(0, replica(9)) }, "R M R R", 0, 0},
		{"a replica is not listed any more", func() { w.members(a, c, d) }, "M R R banned", 0, 0},
		{"it is listed again", func() { w.members(a, b, c, d) }, "M R R R", 0, 0},
		{"and not", func() { w.members(a, c, d) }, "M R R banned", 0, 0},
		{"and is gone", func() { w.departs(b) }, "M R R", 0, 1},
		{"nobody who is listed departs", func() { w.departs(c) }, "M R R", 0, 0},
		{"evidence of who has left is none", func() {
			r := master(9, 9)
			w.s = reduce(w.s, observation{node: b, probe: 99, sent: w.now, at: w.now, report: &r}, w.rules)
		}, "M R R", 0, 0},
		{"the master is not listed any more", func() { w.members(c, d) }, "R R M", 0, 0},
		{"and does not depart", func() { w.departs(a) }, "R R M", 0, 0},
		{"nor when it is down", func() { w.loses(2, StatusDown).departs(a) }, "R R down", 0, 0},
		{"until there is another", func() { w.sees(0, master(3, 20)).departs(a) }, "M R", 0, 1},
	} {
		prev := w.s
		step.do()
		count(prev)
		if got := w.view(); got != step.view || joined != step.joined || left != step.left {
			t.Fatalf("%s: got %q, %d joined, %d left", step.name, got, joined, left)
		}
	}
}

func TestSupersededNodeStaysSoWhenItLeavesAndComesBack(t *testing.T) {
	told := func(r Report) Report { r.Timeline = 0; return r }
	w := newWorld(2).sees(0, master(1, 9)).sees(1, replica(9)).sees(1, master(2, 10)).sees(0, master(1, 9))
	if got := w.view(); got != "stale M" {
		t.Fatal(got)
	}
	a, b := w.node(0), w.node(1)
	w.members(b).departs(a).members(fakeNode(0), b).loses(1, StatusDown).sees(0, told(master(1, 9)))
	if got := w.view(); got != "stale down" {
		t.Errorf("it tells no timeline and is %s", got)
	}
	if w.sees(0, replica(9)); w.s.nodes[0].superseded {
		t.Error("it is a standby now and still counts as superseded")
	}
}

func TestShorterListMakesNoMajority(t *testing.T) {
	w := newWorld(3)
	w.rules.requireMajority = true
	w.sees(0, master(1, 9)).sees(1, replica(9)).sees(2, replica(9))
	a, b, c := w.node(0), w.node(1), w.node(2)
	w.loses(1, StatusDown).loses(2, StatusDown)
	if got := w.view(); got != "suspect down down" {
		t.Fatal(got)
	}
	w.members(a).departs(b).departs(c).sees(0, master(1, 9))
	if got := w.view(); got != "suspect" {
		t.Errorf("alone it is %s", got)
	}
	d, e := fakeNode(3), fakeNode(4)
	w.members(a, d, e).sees(0, master(1, 9)).sees(1, replica(9))
	if got := w.view(); got != "M R suspect" {
		t.Errorf("with one of two more it is %s", got)
	}
	w.members(a, d).departs(e).loses(1, StatusDown)
	if got := w.view(); got != "suspect down" {
		t.Errorf("one of two is %s", got)
	}
}

func TestOrdersOutlastWhatTheNodeSays(t *testing.T) {
	w := newWorld(3).sees(0, master(1, 9)).sees(1, replica(9)).sees(2, replica(9))
	other := master(1, 9)
	other.StartTime = other.StartTime.Add(time.Hour)
	ordered := func(i int, b *ban) { w.s = reduce(w.s, banOrder{w.node(i), b, w.now}, w.rules) }
	ordered(1, &ban{reason: "disk", until: w.now.Add(time.Minute)})
	for _, step := range []struct {
		name string
		do   func()
		view string
	}{
		{"banned", func() {}, "M banned R"},
		{"it answers", func() { w.sees(1, replica(10)) }, "M banned R"},
		{"it is silent", func() { w.loses(1, StatusSuspect) }, "M suspect R"},
		{"it answers again", func() { w.sees(1, replica(10)) }, "M banned R"},
		{"everything is forgotten", func() { w.s = reduce(w.s, forgetOrder{w.now}, w.rules) }, "suspect suspect suspect"},
		{"all answer", func() { w.sees(0, master(1, 9)).sees(1, replica(10)).sees(2, replica(9)) }, "M banned R"},
		{"the time is over", func() { w.after(time.Minute).sees(2, replica(10)) }, "M R R"},
		{"the master is banned", func() { ordered(0, &ban{reason: "work"}) }, "banned R R"},
		{"another one on the same timeline", func() { w.sees(1, other) }, "banned stale R"},
		{"a newer one", func() { w.sees(1, master(2, 10)) }, "stale M R"},
		{"nothing to lift", func() { ordered(2, nil) }, "stale M R"},
	} {
		step.do()
		if got := w.view(); got != step.view {
			t.Fatalf("%s: %s", step.name, got)
		}
	}
	if cause := (&ban{reason: "disk", until: w.now}).cause(); !strings.HasPrefix(cause.Error(), "banned until ") {
		t.Error(cause)
	}
}

// TestNodeUnderAnotherName is a list that has the servers under other names: those that were known leave, the master too.
func TestNodeUnderAnotherName(t *testing.T) {
	w := newWorld(2).sees(0, master(2, 9)).sees(1, replica(9))
	a, x := w.node(0), fakeNode(7)
	w.members(x, w.node(1))
	if got := w.view(); got != "suspect R M" {
		t.Fatal(got)
	}
	if w.departs(a).sees(0, replica(9)); w.view() != "R R M" {
		t.Errorf("another server answers: %s", w.view())
	}
	if w.sees(0, master(2, 9)); w.view() != "M R banned" || w.s.incumbent != x {
		t.Errorf("the master answers under its other name: %s", w.view())
	}
	if w.departs(a); w.view() != "M R" {
		t.Errorf("it does not leave: %s", w.view())
	}
}

// TestUnconfirmedNodesHaveNoVote is a list of another cluster, which has more nodes and gets all of the work if they may vote.
func TestUnconfirmedNodesHaveNoVote(t *testing.T) {
	other := func(r Report) Report { r.SystemID = cluster2; return r }
	w := newWorld(2).sees(0, master(2, 9)).sees(1, replica(9))
	a, b := w.node(0), w.node(1)
	x, y, z, c := fakeNode(7), fakeNode(8), fakeNode(9), fakeNode(3)
	w.members(x, y, z, c).departs(b)
	w.sees(0, other(master(5, 9))).sees(1, other(replica(9))).sees(2, other(replica(9))).sees(3, replica(9))
	if got := w.view(); got != "foreign foreign foreign R M" {
		t.Fatal(got)
	}
	if w.loses(4, StatusDown); w.view() != "foreign foreign foreign R down" {
		t.Errorf("without the master: %s", w.view())
	}
	if w.sees(3, master(3, 10)).departs(a); w.view() != "foreign foreign foreign M" {
		t.Errorf("one that has joined and belongs to the cluster is promoted: %s", w.view())
	}
	w.s = reduce(w.s, forgetOrder{w.now}, w.rules)
	if w.sees(0, other(master(5, 9))).sees(1, other(replica(9))).sees(2, other(replica(9))).sees(3, master(3, 9)); w.view() != "M R R foreign" {
		t.Errorf("once it is forgotten: %s", w.view())
	}
}

func TestListThatSaysNothingNewIsNoChange(t *testing.T) {
	w := newWorld(3).sees(0, master(2, 9)).sees(1, replica(9)).sees(2, replica(9))
	a, b, c := w.node(0), w.node(1), w.node(2)
	labelled := func(l label) *Snapshot {
		list := asConfigured([]*node{a, b, c})
		list[1].label = l
		return reduce(w.s, membership{list, w.now}, w.rules)
	}
	was := b.config.label()
	for _, l := range []label{was, {was.name, was.zone, map[string]string{}}} {
		if labelled(l) != w.s {
			t.Errorf("%v makes another snapshot", l)
		}
	}
	for _, l := range []label{{"other", "", nil}, {was.name, "b", nil}, {was.name, "", map[string]string{"noloadbalance": "true"}}} {
		next := labelled(l)
		if n := next.nodes[1]; n.Name != l.name || n.Zone != l.zone || n.noReads() != (l.tags != nil) || n.Role != RoleReplica {
			t.Errorf("%v makes it %+v", l, n)
		}
		if next.differs(w.s) != (l.tags != nil) {
			t.Errorf("%v: who waits is woken: %v", l, next.differs(w.s))
		}
	}
	if prev := w.s; w.members(b, a, c).s == prev {
		t.Error("another order is no change")
	}
}

// TestTimelineStaysWhenWhoToldItLeaves is a standby that told of a promotion which nobody else has seen.
func TestTimelineStaysWhenWhoToldItLeaves(t *testing.T) {
	w := newWorld(3).sees(0, master(1, 9)).sees(1, replica(9))
	told := replica(9)
	told.Timeline = 2
	if w.sees(2, told); w.view() != "stale R R" {
		t.Fatal(w.view())
	}
	c := w.node(2)
	if w.members(w.node(0), w.node(1)).departs(c).sees(0, master(1, 9)); w.view() != "stale R" {
		t.Errorf("the old master is %s", w.view())
	}
}

func TestMajorityOutlastsTheDepartureOfNodesThatAnswer(t *testing.T) {
	w := newWorld(3)
	w.rules.requireMajority = true
	w.sees(0, master(1, 9)).sees(1, replica(9)).sees(2, replica(9))
	a, b, c := w.node(0), w.node(1), w.node(2)
	w.members(a).departs(b).departs(c).sees(0, master(1, 10))
	if got := w.view(); got != "M" {
		t.Errorf("the only node that is left is %s", got)
	}
}

func TestForgottenClusterHasNoElectorate(t *testing.T) {
	w := newWorld(3)
	w.rules.requireMajority = true
	w.sees(0, master(1, 9)).sees(1, replica(9)).sees(2, replica(9))
	a, b, c := w.node(0), w.node(1), w.node(2)
	w.loses(1, StatusDown).loses(2, StatusDown).members(a).departs(b).departs(c)
	w.s = reduce(w.s, forgetOrder{w.now}, w.rules)
	if got := w.sees(0, master(1, 10)).view(); got != "M" {
		t.Errorf("the survivor is %s", got)
	}
}
