package hasql

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

// tape reads a fuzzer's bytes as choices; behind its end all of them are 0.
type tape []byte

func (t *tape) next(n int) int {
	if len(*t) == 0 {
		return 0
	}
	b := (*t)[0]
	*t = (*t)[1:]
	return int(b) % n
}

func (t *tape) over() bool { return len(*t) == 0 }

// FuzzReduce feeds the reducer any evidence, also such as no cluster would ever give.
func FuzzReduce(f *testing.F) {
	f.Fuzz(func(t *testing.T, choices []byte) {
		in := tape(choices)
		w := newWorld(1 + in.next(5))
		w.rules.multiMaster, w.rules.requireMajority = in.next(4) == 1, in.next(4) == 1
		if in.next(2) == 1 {
			w.unheard()
		}
		for range 300 { // more of the same shows nothing new, and the fuzzer would try a megabyte
			if in.over() {
				return
			}
			prev := w.s
			before := *prev
			before.nodes, before.wal = slices.Clone(prev.nodes), slices.Clone(prev.wal)
			o := w.evidence(&in)
			w.s = reduce(prev, o, w.rules)
			if !reflect.DeepEqual(&before, prev) {
				t.Fatalf("%+v changed the snapshot before", o)
			}
			w.mustFollow(t, prev, o)
			w.mustHold(t)
		}
	})
}

// evidence makes an observation, now and then one that comes late.
func (w *world) evidence(in *tape) observation {
	w.now = w.now.Add(time.Duration(in.next(3)) * time.Second)
	w.probe++
	o := observation{node: w.node(in.next(len(w.s.nodes))), probe: w.probe, sent: w.now, at: w.now.Add(time.Millisecond)}
	switch late := in.next(8); {
	case late == 1:
		o.probe = w.s.state(o.node).probe // about a question that was answered already, or given up
	case late == 2 && o.probe > 3:
		o.probe -= 3
	}
	switch kind := in.next(8); kind {
	case 0:
		o.status, o.cause = StatusSuspect, errUnanswered
	case 1:
		o.status, o.cause = StatusDown, errUnanswered
	default:
		o.report = &Report{
			Role:        Role(in.next(4)), // one of them does not exist
			InRecovery:  in.next(2) == 1,
			SystemID:    []uint64{cluster1, cluster1, cluster1, 0, cluster2}[in.next(5)],
			Timeline:    uint32(in.next(5)),
			LSN:         LSN(in.next(256)),
			ReplayDelay: time.Duration(in.next(4)-1) * time.Second,
			Pooler:      in.next(8) == 1,
		}
		if start := in.next(4); start > 0 {
			o.report.StartTime = time.Unix(int64(start), 0)
		}
	}
	return o
}

// mustFollow is what must hold between two snapshots.
func (w *world) mustFollow(t *testing.T, prev *Snapshot, o observation) {
	t.Helper()
	next := w.s
	if next.identity == prev.identity && next.timeline < prev.timeline {
		for i := range next.nodes {
			n, ours := &next.nodes[i], next.nodes[i].Report.SystemID == 0 || next.nodes[i].Report.SystemID == next.identity
			if ours && (n.Report.Timeline == prev.timeline || prev.nodes[i].highestTimeline == prev.timeline && !n.Report.InRecovery) {
				t.Fatalf("%+v: the timeline went from %d to %d, and node %d was on it last", o, prev.timeline, next.timeline, i)
			}
		}
	}
	if prev.identitySettled && !next.identitySettled || prev.identity != 0 && next.identity == 0 {
		t.Fatalf("%+v: the identity is unknown again", o)
	}
	for i := range next.nodes {
		old, new := &prev.nodes[i], &next.nodes[i]
		if new.probe < old.probe || new.node != o.node && new.probe != old.probe {
			t.Fatalf("%+v: node %d went from probe %d to %d", o, i, old.probe, new.probe)
		}
		if (new.Role != old.Role || new.Status != old.Status) && !new.Since.Equal(o.at) {
			t.Fatalf("%+v: node %d changed at %v", o, i, new.Since)
		}
	}
	if o.probe < prev.state(o.node).probe && next != prev {
		t.Fatalf("%+v is older than what was known, and replaced it", o)
	}
}

// mustHold is what must hold in every snapshot.
func (w *world) mustHold(t *testing.T) {
	t.Helper()
	s := w.s
	var masters []*NodeState
	for i := range s.nodes {
		n := &s.nodes[i]
		r := &n.Report
		switch up := n.Status == StatusUp; {
		case up != (n.Role != RoleUnknown), up != (n.Cause == nil):
			t.Fatalf("%s is %v, a %v, because of %v", n.Name, n.Status, n.Role, n.Cause)
		case up && (!n.answered || n.Role != r.Role):
			t.Fatalf("%s is a %v by the report %+v, answered: %v", n.Name, n.Role, r, n.answered)
		case up && !w.rules.multiMaster && r.SystemID != 0 && (r.SystemID != s.identity || !s.identitySettled):
			t.Fatalf("%s is up, and belongs to cluster %d, not %d", n.Name, r.SystemID, s.identity)
		case up && !w.rules.multiMaster && r.Timeline != 0 && r.Timeline < s.timeline:
			t.Fatalf("%s is up on timeline %d, and %d is known", n.Name, r.Timeline, s.timeline)
		case n.LagKnown && n.LagTime < 0:
			t.Fatalf("%s is %v behind", n.Name, n.LagTime)
		}
		if n.Role == RoleMaster {
			masters = append(masters, n)
		}
	}
	for _, m := range masters {
		if !w.rules.multiMaster && !m.Report.samePostmaster(&masters[0].Report) && m != masters[0] {
			t.Fatalf("%s and %s are masters", masters[0].Name, m.Name)
		}
	}
	if len(masters) > 0 != s.noMasterSince.IsZero() {
		t.Fatalf("%d masters, lost at %v", len(masters), s.noMasterSince)
	}
	answering := 0
	for i := range s.nodes {
		if n := &s.nodes[i]; n.answered && n.Status != StatusForeign {
			answering++
		}
	}
	if w.rules.requireMajority && len(masters) > 0 && 2*answering <= len(s.nodes) {
		t.Fatalf("a master, and %d of %d nodes answer", answering, len(s.nodes))
	}
}

// FuzzPickers lets every policy choose among any candidates.
func FuzzPickers(f *testing.F) {
	f.Fuzz(func(t *testing.T, choices []byte) {
		in := tape(choices)
		var latencies []time.Duration
		for range 2 + in.next(100) {
			// Also none at all, and more than any sum of two of them can hold.
			latencies = append(latencies, []time.Duration{0, 1, time.Microsecond, time.Millisecond, time.Second, 1<<63 - 1, -1}[in.next(7)]*
				time.Duration(1+in.next(20)))
		}
		cs := fleet(latencies...)
		for i := range cs {
			cs[i].load = loaded(1+in.next(20), in.next(40)-5)
		}
		for name, picker := range balancers {
			p := picker()
			for range 20 {
				if i := p.Pick(cs); i < 0 || i >= len(cs) {
					t.Fatalf("%s chose %d of %d", name, i, len(cs))
				}
			}
		}
		i := nearest(cs)
		for _, c := range cs {
			if c.Latency < cs[i].Latency {
				t.Fatal("nearest took " + fmt.Sprint(cs[i].Latency) + ", and there is " + fmt.Sprint(c.Latency))
			}
		}
	})
}
