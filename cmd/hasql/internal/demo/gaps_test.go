package demo

import (
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// at is a write that took 1 ms.
func at(done time.Duration, node int, timeline uint32) answer {
	return answer{sent: done - ms, done: done, node: node, timeline: timeline}
}

func TestOutageLastsFromTheLastWriteBeforeToTheFirstAfter(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answers []answer
		want    []gap
		astray  int
	}{
		"a failover": {
			answers: []answer{at(900*ms, 0, 1), at(990*ms, 0, 1), at(1350*ms, 1, 2), at(1360*ms, 1, 2)},
			want:    []gap{{at(990*ms, 0, 1), at(1350*ms, 1, 2)}},
		},
		"however short": {
			answers: []answer{at(990*ms, 0, 1), at(995*ms, 1, 2)},
			want:    []gap{{at(990*ms, 0, 1), at(995*ms, 1, 2)}},
		},
		"the same node on a later timeline": {
			answers: []answer{at(990*ms, 0, 1), at(1000*ms, 0, 2)},
			want:    []gap{{at(990*ms, 0, 1), at(1000*ms, 0, 2)}},
		},
		"there and back": {
			answers: []answer{at(990*ms, 0, 1), at(1350*ms, 1, 2), at(5000*ms, 1, 2), at(5070*ms, 0, 3)},
			want: []gap{
				{at(990*ms, 0, 1), at(1350*ms, 1, 2)}, {at(1350*ms, 1, 2), at(5000*ms, 1, 2)}, {at(5000*ms, 1, 2), at(5070*ms, 0, 3)},
			},
		},
		"a write on a stale master neither ends nor prolongs it": {
			answers: []answer{at(990*ms, 0, 1), at(1350*ms, 1, 2), at(1400*ms, 0, 1), at(1450*ms, 1, 2)},
			want:    []gap{{at(990*ms, 0, 1), at(1350*ms, 1, 2)}},
			astray:  1,
		},
		"a long silence of one master": {
			answers: []answer{at(100*ms, 0, 1), at(600*ms, 0, 1)},
			want:    []gap{{at(100*ms, 0, 1), at(600*ms, 0, 1)}},
		},
		"a short silence of one master is none": {
			answers: []answer{at(100*ms, 0, 1), at(599*ms, 0, 1)},
		},
		"writers that report a little out of order": {
			answers: []answer{at(300*ms, 0, 1), at(299*ms, 0, 1), at(799*ms, 0, 1)},
		},
		"the first write ends nothing": {
			answers: []answer{at(9000*ms, 0, 1)},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var g gaps
			astray := 0
			for _, a := range test.answers {
				before := len(g.found)
				found, ended, stray := g.add(a)
				if ended != (len(g.found) == before+1) || ended && found != g.found[before] {
					t.Errorf("%+v: ended %v with %+v, found %+v", a, ended, found, g.found)
				}
				if stray {
					astray++
				}
			}
			if !slices.Equal(g.found, test.want) {
				t.Errorf("got %+v, want %+v", g.found, test.want)
			}
			if astray != test.astray {
				t.Errorf("%d astray, want %d", astray, test.astray)
			}
		})
	}
}

func TestOldOutagesAreForgotten(t *testing.T) {
	t.Parallel()
	var g gaps
	for i := range keptGaps + 10 {
		g.add(at(time.Duration(i)*time.Second, i%2, uint32(i+1)))
	}
	if n := len(g.found); n != keptGaps {
		t.Errorf("%d kept, want %d", n, keptGaps)
	}
	if last := g.found[keptGaps-1].after.timeline; last != keptGaps+10 {
		t.Errorf("the last one is of timeline %d", last)
	}
}

func TestOutageIsPutNextToWhatTheProberSawAndToItsFault(t *testing.T) {
	t.Parallel()
	felt := gap{at(990*ms, 0, 1), at(1350*ms, 1, 2)}
	seen := gap{at(985*ms, 0, 1), answer{sent: 1340 * ms, done: 1342 * ms, node: 1, timeline: 2}}
	late := gap{at(985*ms, 0, 1), answer{sent: 1352 * ms, done: 1353 * ms, node: 1, timeline: 2}}
	other := gap{at(5000*ms, 0, 3), at(5300*ms, 1, 4)}
	paused := gap{at(990*ms, 0, 1), at(1350*ms, 0, 1)}
	tests := map[string]struct {
		felt     gap
		seen     []gap
		injuries []injury
		want     outage
	}{
		"a crash": {
			felt,
			[]gap{seen},
			[]injury{{"crash", 0, 991 * ms}},
			outage{"crash", felt, 360 * ms, 355 * ms, 10 * ms, true},
		},
		"the prober is behind": {
			felt,
			[]gap{late},
			[]injury{{"crash", 0, 991 * ms}},
			outage{"crash", felt, 360 * ms, 367 * ms, 0, true},
		},
		"nobody's fault": {
			felt,
			[]gap{seen},
			nil,
			outage{kindFailover, felt, 360 * ms, 355 * ms, 10 * ms, true},
		},
		"the prober saw another one": {
			felt,
			[]gap{other},
			nil,
			outage{kind: kindFailover, gap: felt, length: 360 * ms},
		},
		"a pause": {
			paused, nil, nil,
			outage{kind: kindPause, gap: paused, length: 360 * ms},
		},
		"a pause that the prober felt in one slow write": {
			paused,
			[]gap{{at(980*ms, 0, 1), answer{sent: 985 * ms, done: 1345 * ms, node: 0, timeline: 1}}},
			nil,
			outage{kindPause, paused, 360 * ms, 365 * ms, 5 * ms, true},
		},
		"a shutdown in order goes on for a while": {
			felt, nil,
			[]injury{{"switchover", 0, 200 * ms}},
			outage{kind: "switchover", gap: felt, length: 360 * ms},
		},
		"the last of several faults": {
			felt, nil,
			[]injury{{"freeze", 0, 700 * ms}, {"crash", 0, 991 * ms}, {"freeze", 0, 1351 * ms}},
			outage{kind: "crash", gap: felt, length: 360 * ms},
		},
		"a fault without a failover": {
			paused, nil,
			[]injury{{"crash", 0, 991 * ms}},
			outage{kind: "crash", gap: paused, length: 360 * ms},
		},
		"a fault of another node": {
			paused, nil,
			[]injury{{"crash", 1, 991 * ms}},
			outage{kind: kindPause, gap: paused, length: 360 * ms},
		},
		"a fault of long ago": {
			other, nil,
			[]injury{{"crash", 0, 991 * ms}},
			outage{kind: kindFailover, gap: other, length: 300 * ms},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := outagesOf([]gap{test.felt}, test.seen, test.injuries)
			if len(got) != 1 || got[0] != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestOutageInWords(t *testing.T) {
	t.Parallel()
	nodes := []string{"pg1", "pg2"}
	o := outage{gap: gap{at(990*ms, 0, 1), at(1350*ms, 1, 2)}, length: 360 * ms, cluster: 355 * ms, clusterKnown: true}
	const want = "application writes again after 360 ms, pg1 → pg2 (cluster: 355 ms)"
	if got := o.describe(nodes); got != want {
		t.Errorf("got %q", got)
	}
	o = outage{gap: gap{at(990*ms, 0, 1), at(1350*ms, 0, 1)}, length: 360 * ms}
	if got := o.describe(nodes); got != "application writes again after 360 ms, on pg1" {
		t.Errorf("got %q", got)
	}
}
