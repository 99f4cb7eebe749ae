package workload

import (
	"math"
	"slices"
	"testing"
)

func TestEachWriteHasOneFate(t *testing.T) {
	t.Parallel()
	l := NewLedger(100, 100)
	l.Acknowledged(1, at(900*ms, 0, 1))
	l.Acknowledged(2, at(990*ms, 0, 1))
	l.Failed(3)
	l.Accepted(at(985*ms, 0, 1))
	if !l.Accepted(at(1340*ms, 1, 2)) {
		t.Error("the new master's first write was not noticed")
	}
	l.Acknowledged(4, at(1339*ms, 0, 1)) // before the new master accepted writes
	l.Acknowledged(5, at(1345*ms, 0, 1)) // on the old master, though the new one accepts writes
	o, ended := l.Acknowledged(6, at(1350*ms, 1, 2))
	if !ended || o.Length() != 11*ms {
		t.Errorf("the application's outage: ended %v, %+v", ended, o)
	}
	l.Acknowledged(7, at(1360*ms, 0, 1)) // on the old master, though the application knows the new one

	if got := sorted(l.Expected()); !slices.Equal(got, []int64{1, 2, 4, 6}) || !slices.Equal(l.Doubtful(), []int64{3}) {
		t.Errorf("looked for: %v, %v", got, l.Doubtful())
	}
	l.Lose([]int64{2, 5})
	l.Lose([]int64{2}) // it is lost once
	if got, want := l.Counts(), (Counts{Acknowledged: 6, Failed: 1, Lost: 1, Stray: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if l.Last() != at(1350*ms, 1, 2) || l.LastAccepted() != 1340*ms || len(l.Outages()) != 1 {
		t.Errorf("last write %+v, last accepted at %v, outages %+v", l.Last(), l.LastAccepted(), l.Outages())
	}
}

func TestRingKeepsTheLast(t *testing.T) {
	t.Parallel()
	r := ring{limit: 3}
	for id := range int64(5) {
		r.add(id)
	}
	if got := r.list(); !slices.Equal(sorted(got), []int64{2, 3, 4}) {
		t.Errorf("got %v", got)
	}
	if had := r.remove([]int64{1, 3}); had != 1 {
		t.Errorf("removed %d", had)
	}
	for id := range int64(2) {
		r.add(10 + id)
	}
	if got := r.list(); !slices.Equal(sorted(got), []int64{4, 10, 11}) {
		t.Errorf("got %v: the oldest goes first", got)
	}
}

func sorted(ids []int64) []int64 {
	slices.Sort(ids)
	return ids
}

func TestSilenceCountsTheEndsToo(t *testing.T) {
	t.Parallel()
	s := SilenceFrom(10 * ms)
	if got := s.Longest(15 * ms); got != 5*ms {
		t.Errorf("before the first answer: %v", got)
	}
	s.End(40 * ms)
	s.End(39 * ms) // two clients that report a little out of order
	s.End(50 * ms)
	if got := s.Longest(60 * ms); got != 30*ms {
		t.Errorf("in the middle: %v", got)
	}
	if got := s.Longest(100 * ms); got != 50*ms {
		t.Errorf("at the end: %v", got)
	}
	if got := s.LongestEnded(); got != 30*ms {
		t.Errorf("ended: %v", got)
	}
}

func TestSpreadNeverFlatters(t *testing.T) {
	t.Parallel()
	never := math.Inf(1)
	for _, test := range []struct {
		values                  []float64
		median, least, greatest float64
	}{
		{nil, 0, 0, 0},
		{[]float64{7}, 7, 7, 7},
		{[]float64{9, 3}, 9, 3, 9},
		{[]float64{5, never, 4, 2, 3}, 4, 2, never},
		{[]float64{never, 2, never}, never, 2, never},
	} {
		median, least, greatest := Spread(test.values)
		if median != test.median || least != test.least || greatest != test.greatest {
			t.Errorf("%v: got %v, %v, %v", test.values, median, least, greatest)
		}
	}
}
