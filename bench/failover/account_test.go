package main

import (
	"math"
	"testing"
	"time"
)

const ms = time.Millisecond

// absent is the id of a write that the last master does not have.
const absent = 99

// crashed is n1's death at 0; n2 is promoted and accepts writes at 340 ms.
func crashed(ops ...op) record {
	return record{
		nodes: []string{"n1", "n2", "n3"}, old: 0, next: 1, end: 2000 * ms, ops: ops,
		marks:   []mark{{"fault", 0}, {"promotion", 300}, {acceptingMark, 340}},
		missing: map[int64]bool{absent: true},
	}
}

// wrote is a write of 1 ms that node acknowledged at end.
func wrote(id int64, end time.Duration, node int) op {
	return op{write: true, id: id, start: end - ms, end: end, node: node}
}

// answered is a read of 1 ms.
func answered(client int, end time.Duration, node int) op {
	return op{client: client, start: end - ms, end: end, node: node}
}

func TestOutageLastsFromTheOldMastersLastWriteToTheNewOnesFirst(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ops              []op
		outage, recovery figure
	}{
		"usual": {
			[]op{wrote(1, -10*ms, 0), wrote(2, -1*ms, 0), wrote(3, 350*ms, 1), wrote(4, 360*ms, 1)}, 351, 10,
		},
		"in any order": {
			[]op{wrote(4, 360*ms, 1), wrote(2, -1*ms, 0), wrote(3, 350*ms, 1), wrote(1, -10*ms, 0)}, 351, 10,
		},
		"an acknowledgement read after the fault still counts": {
			[]op{wrote(1, 5*ms, 0), wrote(2, 350*ms, 1)}, 345, 10,
		},
		"failures do not end it": {
			[]op{wrote(1, -1*ms, 0), wrote(2, 345*ms, nobody), wrote(3, 400*ms, 1)}, 401, 60,
		},
		"a stray write neither ends nor prolongs it": {
			[]op{wrote(1, -1*ms, 0), wrote(2, 345*ms, 0), wrote(3, 400*ms, 1)}, 401, 60,
		},
		"a read does not end it": {
			[]op{wrote(1, -1*ms, 0), answered(1, 341*ms, 1), wrote(3, 400*ms, 1)}, 401, 60,
		},
		"faster than the prober": {
			[]op{wrote(1, -1*ms, 0), wrote(2, 339*ms, 1)}, 340, 0,
		},
		"only the old master": {[]op{wrote(1, -1*ms, 0), wrote(2, 900*ms, 0)}, never, never},
		"no write at all":     {nil, never, never},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := account(crashed(test.ops...))
			if f.Outage != test.outage || f.Recovery != test.recovery {
				t.Errorf("outage %v, recovery %v, want %v, %v", f.Outage, f.Recovery, test.outage, test.recovery)
			}
		})
	}
}

func TestEachWriteHasOneFate(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		op   op
		want figures
	}{
		"kept":                              {wrote(1, -1*ms, 0), figures{Writes: 1}},
		"kept on the new master":            {wrote(1, 350*ms, 1), figures{Writes: 1}},
		"lost":                              {wrote(absent, -1*ms, 0), figures{Writes: 1, Lost: 1}},
		"lost by the new master":            {wrote(absent, 350*ms, 1), figures{Writes: 1, Lost: 1}},
		"lost while there was no new one":   {wrote(absent, 340*ms, 0), figures{Writes: 1, Lost: 1}},
		"stray is not lost too":             {wrote(absent, 341*ms, 0), figures{Writes: 1, Stray: 1}},
		"stray on a node never a master":    {wrote(absent, 341*ms, 2), figures{Writes: 1, Stray: 1}},
		"failed":                            {wrote(absent, 1*ms, nobody), figures{FailedWrites: 1}},
		"failed and nevertheless in effect": {wrote(1, 1*ms, nobody), figures{FailedWrites: 1, FailedThere: 1}},
		"read":                              {answered(1, 1*ms, 2), figures{Reads: 1}},
		"failed read":                       {answered(1, 1*ms, nobody), figures{FailedReads: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var f figures
			r := crashed(test.op)
			if f.count(&r); f != test.want {
				t.Errorf("got %+v, want %+v", f, test.want)
			}
		})
	}
}

func TestWithoutPromotionNothingIsStrayAndTheOutageIsTheLongestWait(t *testing.T) {
	t.Parallel()
	r := record{
		nodes: []string{"n1", "n2", "n3"}, next: nobody, end: 100 * ms,
		ops: []op{wrote(1, -5*ms, 0), wrote(2, 40*ms, 0), wrote(3, 90*ms, 0)},
	}
	f := account(r)
	if f.Outage != 50 || !f.Recovery.isNone() || f.Stray != 0 || f.Lost != 0 || !f.ReadWait.isNone() {
		t.Errorf("got %+v", f)
	}
}

func TestFirstWriteAfterARestIncludesFailedAttempts(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ops  []op
		took figure
		node string
	}{
		"at once":      {[]op{wrote(1, -1*ms, 0), wrote(2, 1004*ms, 1), wrote(3, 1009*ms, 1)}, 1, "n2"},
		"on the stale": {[]op{wrote(1, -1*ms, 0), wrote(2, 1004*ms, 0)}, 1, "n1"},
		"at last":      {[]op{wrote(2, 1002*ms, nobody), wrote(3, 1500*ms, 1)}, 499, "n2"},
		"never":        {[]op{wrote(1, -1*ms, 0), wrote(2, 1002*ms, nobody)}, never, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := crashed(test.ops...)
			r.idle, r.marks = true, append(r.marks, mark{wakeMark, 1000})
			f := account(r)
			if f.FirstWrite != test.took || f.FirstNode != test.node || !f.Outage.isNone() || !f.Recovery.isNone() {
				t.Errorf("got %+v", f)
			}
		})
	}
}

func TestLongestWaitCountsEachReaderAndTheEnds(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ops  []op
		want time.Duration
	}{
		"in the middle":        {[]op{answered(1, 10*ms, 1), answered(1, 70*ms, 1), answered(1, 90*ms, 2)}, 60 * ms},
		"at the beginning":     {[]op{answered(1, -5*ms, 1), answered(1, 80*ms, 1), answered(1, 90*ms, 1)}, 80 * ms},
		"at the end":           {[]op{answered(1, 10*ms, 1), answered(1, 20*ms, 1)}, 80 * ms},
		"errors are no help":   {[]op{answered(1, 10*ms, 1), answered(1, 50*ms, nobody), answered(1, 95*ms, 1)}, 85 * ms},
		"of one of two":        {[]op{answered(1, 50*ms, 1), answered(2, 20*ms, 1), answered(2, 90*ms, 1), answered(1, 95*ms, 1)}, 70 * ms},
		"before is not after":  {[]op{answered(1, -900*ms, 1), answered(1, -1*ms, 1), answered(1, 50*ms, 1)}, 50 * ms},
		"no answer at all":     {[]op{answered(1, 50*ms, nobody)}, 100 * ms},
		"writes don't count":   {[]op{answered(1, 50*ms, 1), wrote(1, 60*ms, 1)}, 50 * ms},
		"nobody asks, so none": {nil, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := longestWait(test.ops, false, 0, 100*ms); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestMarkThatWasNotMadeIsTheEndOfTime(t *testing.T) {
	t.Parallel()
	r := crashed()
	if got := r.at(wakeMark); got != math.MaxInt64 {
		t.Errorf("got %v", got)
	}
	if got := r.at(acceptingMark); got != 340*ms {
		t.Errorf("got %v", got)
	}
}
