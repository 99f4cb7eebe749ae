package demo

import (
	"slices"
	"testing"
	"time"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

func TestEachWriteHasOneFate(t *testing.T) {
	t.Parallel()
	b := newBook([]string{"pg1", "pg2"}, 1)
	b.acknowledged(1, at(900*ms, 0, 1))
	b.acknowledged(2, at(990*ms, 0, 1))
	b.failed(3, 1000*ms)
	b.accepted(at(985*ms, 0, 1))
	if !b.accepted(at(1340*ms, 1, 2)) {
		t.Error("the new master's first write was not noticed")
	}
	b.acknowledged(4, at(1345*ms, 0, 1)) // on the old master, though the new one accepts writes
	if _, ended := b.acknowledged(5, at(1350*ms, 1, 2)); !ended {
		t.Error("the application's outage did not end")
	}
	b.acknowledged(6, at(1360*ms, 0, 1)) // on the old master, though the application knows the new one

	must, may := b.owed()
	if slices.Sort(must); !slices.Equal(must, []int64{1, 2, 5}) || !slices.Equal(may, []int64{3}) {
		t.Errorf("looked for: %v, %v", must, may)
	}
	b.lost([]int64{2})
	b.lost([]int64{2}) // it is lost once
	w, _, _ := b.counts(1500 * ms)
	want := dashboard.Writes{Acknowledged: 5, Failed: 1, Lost: 1, Stray: 2, Silence: Millis(150 * ms), LastNode: "pg2"}
	if w != want {
		t.Errorf("got %+v, want %+v", w, want)
	}
}

func TestLongestWaitOfAReaderCountsTheEndsToo(t *testing.T) {
	t.Parallel()
	type read struct {
		reader int
		at     time.Duration
		node   int
	}
	tests := map[string]struct {
		reads []read
		want  time.Duration
	}{
		"in the middle":       {[]read{{0, 10 * ms, 1}, {0, 70 * ms, 1}, {0, 90 * ms, 1}, {1, 50 * ms, 0}}, 60 * ms},
		"at the beginning":    {[]read{{0, 80 * ms, 1}, {0, 90 * ms, 1}, {1, 50 * ms, 0}}, 80 * ms},
		"at the end":          {[]read{{0, 10 * ms, 1}, {0, 20 * ms, 1}, {1, 50 * ms, 0}}, 80 * ms},
		"errors are no help":  {[]read{{0, 10 * ms, 1}, {0, 50 * ms, nobody}, {0, 95 * ms, 1}, {1, 50 * ms, 0}}, 85 * ms},
		"no answer at all":    {[]read{{0, 50 * ms, nobody}}, 100 * ms},
		"not even a question": {nil, 100 * ms},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBook([]string{"pg1", "pg2"}, 2)
			for _, r := range test.reads {
				b.read(r.reader, r.at, r.node)
			}
			if _, r, _ := b.counts(100 * ms); r.LongestWait != Millis(test.want) {
				t.Errorf("got %v, want %v", r.LongestWait, test.want)
			}
		})
	}
}

func TestReadsAreCountedByNode(t *testing.T) {
	t.Parallel()
	b := newBook([]string{"pg1", "pg2"}, 1)
	b.read(0, 10*ms, 1)
	b.read(0, 20*ms, 1)
	b.read(0, 30*ms, 0)
	b.read(0, 40*ms, nobody)
	_, r, byNode := b.counts(50 * ms)
	if r.Answered != 3 || r.Failed != 1 || byNode["pg1"] != 1 || byNode["pg2"] != 2 {
		t.Errorf("got %+v, %v", r, byNode)
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

func TestLogIsNumberedAndBounded(t *testing.T) {
	t.Parallel()
	b := newBook([]string{"pg1"}, 1)
	for range keptEvents + 5 {
		b.tell(time.Second, eventNoticed, "so")
	}
	events := b.told()
	if len(events) != keptEvents || events[0].Number != 6 || events[keptEvents-1].Number != keptEvents+5 {
		t.Errorf("%d events, from %d to %d", len(events), events[0].Number, events[len(events)-1].Number)
	}
}
