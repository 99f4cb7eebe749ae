package demo

import (
	"testing"
	"time"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
	"github.com/pghasql/hasql/internal/workload"
)

func TestRecorderCountsWrites(t *testing.T) {
	t.Parallel()
	r := newRecorder([]string{"pg1", "pg2"}, 1)
	r.acknowledged(1, at(900*ms, 0, 1))
	r.acknowledged(2, at(990*ms, 0, 1))
	r.failed(3, 1000*ms)
	r.fault("crash", 0, 995*ms)
	r.accepted(at(985*ms, 0, 1))
	if !r.accepted(at(1340*ms, 1, 2)) {
		t.Error("the new master's first write was not noticed")
	}
	if o, ended := r.acknowledged(4, at(1350*ms, 1, 2)); !ended || o.kind != "crash" || o.Length() != 360*ms {
		t.Errorf("the outage: %+v, ended %v", o, ended)
	}
	r.missing([]int64{2})
	w, _, _ := r.counts(1500 * ms)
	want := dashboard.Writes{Acknowledged: 3, Failed: 1, Lost: 1, Silence: Millis(150 * ms), LastNode: "pg2"}
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
		"errors are no help":  {[]read{{0, 10 * ms, 1}, {0, 50 * ms, workload.Nobody}, {0, 95 * ms, 1}, {1, 50 * ms, 0}}, 85 * ms},
		"no answer at all":    {[]read{{0, 50 * ms, workload.Nobody}}, 100 * ms},
		"not even a question": {nil, 100 * ms},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder([]string{"pg1", "pg2"}, 2)
			for _, one := range test.reads {
				r.read(one.reader, one.at, one.node)
			}
			if _, reads, _ := r.counts(100 * ms); reads.LongestWait != Millis(test.want) {
				t.Errorf("got %v, want %v", reads.LongestWait, test.want)
			}
		})
	}
}

func TestReadsAreCountedByNode(t *testing.T) {
	t.Parallel()
	r := newRecorder([]string{"pg1", "pg2"}, 1)
	r.read(0, 10*ms, 1)
	r.read(0, 20*ms, 1)
	r.read(0, 30*ms, 0)
	r.read(0, 40*ms, workload.Nobody)
	_, reads, byNode := r.counts(50 * ms)
	if reads.Answered != 3 || reads.Failed != 1 || byNode["pg1"] != 1 || byNode["pg2"] != 2 {
		t.Errorf("got %+v, %v", reads, byNode)
	}
}

func TestLogIsNumberedAndBounded(t *testing.T) {
	t.Parallel()
	r := newRecorder([]string{"pg1"}, 1)
	for range keptEvents + 5 {
		r.event(time.Second, eventNoticed, "so")
	}
	events := r.log()
	if len(events) != keptEvents || events[0].Number != 6 || events[keptEvents-1].Number != keptEvents+5 {
		t.Errorf("%d events, from %d to %d", len(events), events[0].Number, events[len(events)-1].Number)
	}
}
