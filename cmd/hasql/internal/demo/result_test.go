package demo

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// calmRecord is a demo in which all went well.
func calmRecord() record {
	return record{
		version:   "18.1",
		nodes:     []string{"pg1", "pg2", "pg3"},
		failovers: []failover{oneFailover},
		writes:    []write{{1, 990 * ms, 0}, {2, 1000 * ms, nobody}, {3, 1001 * ms, nobody}, {4, 1352 * ms, 1}},
		reads:     [][]read{{{400 * ms, 1}, {1200 * ms, 2}, {2000 * ms, 2}}, {{900 * ms, 1}, {1700 * ms, 2}}},
		ledger:    map[int64]bool{1: true, 3: true, 4: true},
		end:       2000 * ms,
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
    outage: last on the old master to first on the new   362 ms
      of it, after the new master accepted writes        12.0 ms          promised ≤ 100 ms   kept
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
	again := failover{old: 1, next: 0, killed: 6000 * ms, promoted: 6300 * ms, accepted: 6340 * ms, until: 9000 * ms}
	more := failover{old: 0, next: 2, killed: 9000 * ms, promoted: 9300 * ms, accepted: 9340 * ms, until: 9900 * ms}
	r.failovers = append(r.failovers, again, more)
	r.writes = append(r.writes, write{5, 5990 * ms, 1}, write{6, 6345 * ms, 0}, write{7, 8990 * ms, 0}, write{8, 9460 * ms, 2})
	got := rendered(t, newResult(r), style{})
	for _, want := range []string{"median 362 ms (355 … 470 ms)", "median 12.0 ms (5.0 … 120 ms)"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
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
			func(r *record) { delete(r.ledger, 1) },
			"acknowledged writes lost: 1 (promised 0)",
		},
		"a write went astray": {
			func(r *record) { r.writes = append(r.writes, write{9, 1400 * ms, 0}) },
			"acknowledged writes on a stale master: 1 (promised 0)",
		},
		"writing again takes too long": {
			func(r *record) { r.writes[3].done = 1441 * ms },
			"application writes again: 101 ms (promised ≤ 100 ms)",
		},
		"nobody writes again": {
			func(r *record) { r.writes = r.writes[:3] },
			"application writes again: never (promised ≤ 100 ms)",
		},
		"nobody writes again after one of several failovers": {
			func(r *record) {
				r.failovers = append(r.failovers, failover{old: 1, next: 2, killed: 6000 * ms, promoted: 6300 * ms, until: 9000 * ms})
			},
			"application writes again: not after failover 2 (promised ≤ 100 ms)",
		},
		"a reader is left alone": {
			func(r *record) { r.reads[0][1].node = nobody },
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
		Writes    map[string]int
		Kept      bool
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if f := got.Failovers[0]; f["outage_ms"] != 362.0 || f["after_accept_ms"] != 12.0 || f["promoted"] != "pg2" {
		t.Errorf("failover: %v", f)
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

// squeeze makes runs of spaces one, so that a table can be compared without counting them.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
