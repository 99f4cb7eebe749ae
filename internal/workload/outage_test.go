package workload

import (
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// at is a write that took 1 ms.
func at(done time.Duration, node int, timeline uint32) Ack {
	return Ack{Sent: done - ms, Done: done, Node: node, Timeline: timeline}
}

func TestOutageLastsFromTheLastWriteBeforeToTheFirstAfter(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answers []Ack
		want    []Gap
		stray   int
	}{
		"a failover": {
			answers: []Ack{at(900*ms, 0, 1), at(990*ms, 0, 1), at(1350*ms, 1, 2), at(1360*ms, 1, 2)},
			want:    []Gap{{at(990*ms, 0, 1), at(1350*ms, 1, 2)}},
		},
		"however short": {
			answers: []Ack{at(990*ms, 0, 1), at(995*ms, 1, 2)},
			want:    []Gap{{at(990*ms, 0, 1), at(995*ms, 1, 2)}},
		},
		"the same node on a later timeline": {
			answers: []Ack{at(990*ms, 0, 1), at(1000*ms, 0, 2)},
			want:    []Gap{{at(990*ms, 0, 1), at(1000*ms, 0, 2)}},
		},
		"there and back": {
			answers: []Ack{at(990*ms, 0, 1), at(1350*ms, 1, 2), at(5000*ms, 1, 2), at(5070*ms, 0, 3)},
			want: []Gap{
				{at(990*ms, 0, 1), at(1350*ms, 1, 2)}, {at(1350*ms, 1, 2), at(5000*ms, 1, 2)}, {at(5000*ms, 1, 2), at(5070*ms, 0, 3)},
			},
		},
		"a write on a stale master neither ends nor prolongs it": {
			answers: []Ack{at(990*ms, 0, 1), at(1350*ms, 1, 2), at(1400*ms, 0, 1), at(1450*ms, 1, 2)},
			want:    []Gap{{at(990*ms, 0, 1), at(1350*ms, 1, 2)}},
			stray:   1,
		},
		"a long silence of one master": {
			answers: []Ack{at(100*ms, 0, 1), at(600*ms, 0, 1)},
			want:    []Gap{{at(100*ms, 0, 1), at(600*ms, 0, 1)}},
		},
		"a short silence of one master is none": {
			answers: []Ack{at(100*ms, 0, 1), at(599*ms, 0, 1)},
		},
		"writers that report a little out of order": {
			answers: []Ack{at(300*ms, 0, 1), at(299*ms, 0, 1), at(799*ms, 0, 1)},
		},
		"the first write ends nothing": {
			answers: []Ack{at(9000*ms, 0, 1)},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var g gaps
			stray := 0
			for _, a := range test.answers {
				before := len(g.found)
				if g.supersedes(a) {
					stray++
				}
				found, ended := g.add(a)
				if ended != (len(g.found) == before+1) || ended && found != g.found[before] {
					t.Errorf("%+v: ended %v with %+v, found %+v", a, ended, found, g.found)
				}
			}
			if !slices.Equal(g.found, test.want) {
				t.Errorf("got %+v, want %+v", g.found, test.want)
			}
			if stray != test.stray {
				t.Errorf("%d stray, want %d", stray, test.stray)
			}
		})
	}
}

func TestOldOutagesAreForgotten(t *testing.T) {
	t.Parallel()
	var g gaps
	for i := range KeptOutages + 10 {
		g.add(at(time.Duration(i)*time.Second, i%2, uint32(i+1)))
	}
	if n := len(g.found); n != KeptOutages {
		t.Errorf("%d kept, want %d", n, KeptOutages)
	}
	if last := g.found[KeptOutages-1].After.Timeline; last != KeptOutages+10 {
		t.Errorf("the last one is of timeline %d", last)
	}
}

func TestOutageIsPutNextToWhatTheProberSaw(t *testing.T) {
	t.Parallel()
	felt := Gap{at(990*ms, 0, 1), at(1350*ms, 1, 2)}
	seen := Gap{at(985*ms, 0, 1), Ack{Sent: 1340 * ms, Done: 1342 * ms, Node: 1, Timeline: 2}}
	late := Gap{at(985*ms, 0, 1), Ack{Sent: 1352 * ms, Done: 1353 * ms, Node: 1, Timeline: 2}}
	other := Gap{at(5000*ms, 0, 3), at(5300*ms, 1, 4)}
	paused := Gap{at(990*ms, 0, 1), at(1350*ms, 0, 1)}
	tests := map[string]struct {
		felt Gap
		seen []Gap
		want Outage
	}{
		"a crash":                    {felt, []Gap{seen}, Outage{felt, 355 * ms, 10 * ms, true}},
		"the prober is behind":       {felt, []Gap{late}, Outage{felt, 367 * ms, 0, true}},
		"the prober saw another one": {felt, []Gap{other}, Outage{Gap: felt}},
		"a pause":                    {paused, nil, Outage{Gap: paused}},
		"a pause that the prober felt in one slow write": {
			paused,
			[]Gap{{at(980*ms, 0, 1), Ack{Sent: 985 * ms, Done: 1345 * ms, Node: 0, Timeline: 1}}},
			Outage{paused, 365 * ms, 5 * ms, true},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := outageOf(test.felt, test.seen); got != test.want || got.Length() != 360*ms {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
