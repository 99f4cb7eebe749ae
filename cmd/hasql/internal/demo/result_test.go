package demo

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
	"github.com/pghasql/hasql/internal/workload"
)

// felt returns an outage with an end and a length.
func felt(kind string, old, next int, ended, length, afterAccept time.Duration) outage {
	return outage{kind, workload.Outage{
		Gap:     workload.Gap{Before: at(ended-length, old, 1), After: at(ended, next, 2)},
		Cluster: length - afterAccept, AfterAccept: afterAccept, ClusterKnown: true,
	}}
}

// calmRecord is the record of a demo in which every promise was kept.
func calmRecord() record {
	return record{
		version:     "18.1",
		nodes:       []string{"pg1", "pg2", "pg3"},
		played:      []played{{"crash", 0, 1, 1000 * ms, 5000 * ms}, {"freeze", 1, 2, 6000 * ms, 9000 * ms}},
		outages:     []outage{felt("crash", 0, 1, 1352*ms, 362*ms, 12*ms), felt("freeze", 1, 2, 6400*ms, 350*ms, 18*ms)},
		writes:      dashboard.Writes{Acknowledged: 2, Failed: 2},
		failedThere: 1,
		reads:       dashboard.Reads{Answered: 5, LongestWait: Millis(900 * ms)},
		byNode:      map[string]int{"pg1": 0, "pg2": 2, "pg3": 3},
	}
}

func TestTableOfOneRun(t *testing.T) {
	t.Parallel()
	const want = `
  writes
    acknowledged                                         2
      and lost                                           0                promised 0          kept
      on a stale master                                  0                promised 0          kept
    failed, outcome unknown                              2 (1 took effect)
    outage after a crash                                 362 ms
      of it, after the new master accepted writes        12.0 ms          promised ≤ 100 ms   kept
    outage after a freeze                                350 ms
      of it, after the new master accepted writes        18.0 ms          promised ≤ 100 ms   kept
  reads
    answered                                             5
      by node                                            pg1 0, pg2 2, pg3 3
    failed                                               0
    longest wait of a reader for an answer               900 ms           promised ≤ 1 s      kept
`
	result := newResult(calmRecord())
	got := rendered(t, result, style{})
	if squeeze(got) != squeeze(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	columns := make(map[int]bool)
	for line := range strings.Lines(got) {
		if strings.TrimRight(line, " \n")+"\n" != line {
			t.Errorf("spaces at the end of %q", line)
		}
		if before, _, ok := strings.Cut(line, "promised"); ok {
			columns[len([]rune(before))] = true
		}
	}
	if len(columns) != 1 {
		t.Errorf("the promises are not below each other:\n%s", got)
	}
	if !result.Kept || len(result.Broken()) > 0 {
		t.Errorf("broken: %v", result.Broken())
	}
}

func TestTableOfSeveralRunsShowsTheSpread(t *testing.T) {
	t.Parallel()
	r := calmRecord()
	r.played = append(r.played, played{"crash", 2, 0, 10000 * ms, 12000 * ms}, played{"crash", 0, 2, 13000 * ms, 15000 * ms})
	r.outages = append(r.outages, felt("crash", 2, 0, 10400*ms, 355*ms, 5*ms), felt("crash", 0, 2, 13500*ms, 470*ms, 120*ms))
	got := rendered(t, newResult(r), style{})
	for _, want := range []string{"median 362 ms (355 … 470 ms)", "median 12.0 ms (5.0 … 120 ms)"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestSpreadNeverFlatters(t *testing.T) {
	t.Parallel()
	tests := []struct {
		values []Millis
		want   Spread
	}{
		{nil, Spread{}},
		{[]Millis{7}, Spread{7, 7, 7}},
		{[]Millis{9, 3}, Spread{9, 3, 9}},
		{[]Millis{5, 1, 4, 2, 3}, Spread{3, 1, 5}},
	}
	for _, test := range tests {
		if got := newSpread(test.values); got != test.want {
			t.Errorf("%v: got %v, want %v", test.values, got, test.want)
		}
	}
}

func TestEachBrokenPromiseIsNamed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(*record)
		want  string
	}{
		"a write is lost": {
			func(r *record) { r.writes.Lost = 1 },
			"acknowledged writes lost: 1 (promised 0)",
		},
		"a write went astray": {
			func(r *record) { r.writes.Stray = 1 },
			"acknowledged writes on a stale master: 1 (promised 0)",
		},
		"writing again takes too long": {
			func(r *record) { r.outages[0].AfterAccept = 101 * ms },
			"application writes again after a crash: 101 ms (promised ≤ 100 ms)",
		},
		"nobody knows when the new master accepted writes": {
			func(r *record) { r.outages[0].ClusterKnown, r.outages[0].AfterAccept = false, 0 },
			"application writes again after a crash: 362 ms (promised ≤ 100 ms)",
		},
		"nobody writes again": {
			func(r *record) { r.outages = r.outages[1:] },
			"application writes again after a crash: never in 1 of 1 (promised ≤ 100 ms)",
		},
		"nobody writes again before the next fault": {
			func(r *record) { r.outages[1] = felt("freeze", 1, 2, 9001*ms, 3000*ms, 12*ms) },
			"application writes again after a freeze: never in 1 of 1 (promised ≤ 100 ms)",
		},
		"another node than the promoted one ends it": {
			func(r *record) { r.outages[0] = felt("crash", 0, 2, 1352*ms, 362*ms, 12*ms) },
			"application writes again after a crash: never in 1 of 1 (promised ≤ 100 ms)",
		},
		"a reader is left alone": {
			func(r *record) { r.reads.LongestWait = Millis(1600 * ms) },
			"longest wait of a reader: 1600 ms (promised ≤ 1 s)",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := calmRecord()
			test.spoil(&r)
			result := newResult(r)
			if got := result.Broken(); !slices.Equal(got, []string{test.want}) || result.Kept {
				t.Errorf("got %q, kept %v; want %q", got, result.Kept, test.want)
			}
			if table := rendered(t, result, style{}); strings.Count(table, "BROKEN") != 1 {
				t.Errorf("not in the table:\n%s", table)
			}
		})
	}
}

func TestColorIsOnlyWhereItIsWanted(t *testing.T) {
	t.Parallel()
	result := newResult(calmRecord())
	if plain := rendered(t, result, style{}); strings.Contains(plain, "\x1b") {
		t.Errorf("escapes in %q", plain)
	}
	if colored := rendered(t, result, style{color: true}); !strings.Contains(colored, "\x1b[32mkept\x1b[0m") {
		t.Errorf("no colour in %q", colored)
	}
}

func TestJSONHoldsMilliseconds(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(newResult(calmRecord()))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Failovers []map[string]any
		Kinds     []struct {
			Outage map[string]float64 `json:"outage_ms"`
		}
		Writes map[string]int
		Kept   bool
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if f := got.Failovers[0]; f["outage_ms"] != 362.0 || f["after_accept_ms"] != 12.0 || f["promoted"] != "pg2" || f["fault"] != "crash" {
		t.Errorf("failover: %v", f)
	}
	if median := got.Kinds[1].Outage["median"]; median != 350 {
		t.Errorf("median after a freeze: %v", median)
	}
	if got.Writes["failed"] != 2 || got.Writes["failed_but_there"] != 1 || !got.Kept {
		t.Errorf("%s", text)
	}
}

func rendered(t *testing.T, r *Result, s style) string {
	t.Helper()
	var b strings.Builder
	if err := r.render(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// squeeze replaces each run of spaces by one, so that tables can be compared without counting spaces.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
