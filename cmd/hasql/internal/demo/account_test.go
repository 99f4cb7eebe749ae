package demo

import (
	"testing"
	"time"
)

const ms = time.Millisecond

// oneFailover is pg1's death at 1 s; pg2 is promoted at 1.3 s and accepts writes at 1.34 s.
var oneFailover = failover{old: 0, next: 1, killed: 1000 * ms, promoted: 1300 * ms, accepted: 1340 * ms, until: 5000 * ms}

func TestOutageLastsFromTheOldMastersLastWriteToTheNewOnesFirst(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		writes []write
		want   outage
	}{
		"usual": {
			[]write{{1, 900 * ms, 0}, {2, 990 * ms, 0}, {3, 1350 * ms, 1}, {4, 1360 * ms, 1}},
			outage{360 * ms, 10 * ms, true},
		},
		"in any order": {
			[]write{{4, 1360 * ms, 1}, {2, 990 * ms, 0}, {3, 1350 * ms, 1}, {1, 900 * ms, 0}},
			outage{360 * ms, 10 * ms, true},
		},
		"an acknowledgement read after the kill still counts": {
			[]write{{1, 1005 * ms, 0}, {2, 1350 * ms, 1}},
			outage{345 * ms, 10 * ms, true},
		},
		"failed writes do not end it": {
			[]write{{1, 990 * ms, 0}, {2, 1345 * ms, nobody}, {3, 1400 * ms, 1}},
			outage{410 * ms, 60 * ms, true},
		},
		"a write on a stale master does not end it": {
			[]write{{1, 990 * ms, 0}, {2, 1345 * ms, 0}, {3, 1400 * ms, 1}},
			outage{410 * ms, 60 * ms, true},
		},
		"the application is faster than the probe": {
			[]write{{1, 990 * ms, 0}, {2, 1339 * ms, 1}},
			outage{349 * ms, 0, true},
		},
		"what the new master did in an earlier life does not end it": {
			[]write{{1, 500 * ms, 1}, {2, 990 * ms, 0}, {3, 1350 * ms, 1}},
			outage{360 * ms, 10 * ms, true},
		},
		"nor what it does in a later one": {
			[]write{{1, 990 * ms, 0}, {2, 5001 * ms, 1}},
			outage{},
		},
		"no writes after":  {[]write{{1, 990 * ms, 0}}, outage{}},
		"no writes before": {[]write{{1, 1350 * ms, 1}}, outage{}},
		"none at all":      {nil, outage{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := outageOf(oneFailover, test.writes); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestSettleTellsTheFateOfEachWrite(t *testing.T) {
	t.Parallel()
	back := failover{old: 1, next: 0, killed: 8000 * ms, promoted: 8300 * ms, accepted: 8340 * ms, until: 9000 * ms}
	tests := map[string]struct {
		write write
		there bool
		want  fates
	}{
		"kept":                              {write{1, 900 * ms, 0}, true, fates{acknowledged: 1}},
		"kept on the new master":            {write{1, 1400 * ms, 1}, true, fates{acknowledged: 1}},
		"kept on the master of the second":  {write{1, 8400 * ms, 0}, true, fates{acknowledged: 1}},
		"lost":                              {write{1, 900 * ms, 0}, false, fates{acknowledged: 1, lost: 1}},
		"lost by the new master":            {write{1, 1400 * ms, 1}, false, fates{acknowledged: 1, lost: 1}},
		"read late but from before":         {write{1, 1299 * ms, 0}, false, fates{acknowledged: 1, lost: 1}},
		"astray is not lost too":            {write{1, 1400 * ms, 0}, false, fates{acknowledged: 1, stray: 1}},
		"astray by luck there":              {write{1, 1400 * ms, 0}, true, fates{acknowledged: 1, stray: 1}},
		"astray after the second failover":  {write{1, 8400 * ms, 1}, false, fates{acknowledged: 1, stray: 1}},
		"astray on a node never a master":   {write{1, 1400 * ms, 2}, false, fates{acknowledged: 1, stray: 1}},
		"failed is never lost":              {write{1, 1000 * ms, nobody}, false, fates{failed: 1}},
		"failed and nevertheless in effect": {write{1, 1000 * ms, nobody}, true, fates{failed: 1, failedThere: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ledger := map[int64]bool{99: true}
			if test.there {
				ledger[test.write.id] = true
			}
			if got := settle([]write{test.write}, ledger, []failover{oneFailover, back}); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestLongestWaitCountsTheEndsToo(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		reads []read
		want  time.Duration
	}{
		"in the middle":       {[]read{{10 * ms, 1}, {70 * ms, 1}, {90 * ms, 2}}, 60 * ms},
		"at the beginning":    {[]read{{80 * ms, 1}, {90 * ms, 1}}, 80 * ms},
		"at the end":          {[]read{{10 * ms, 1}, {20 * ms, 1}}, 80 * ms},
		"errors are no help":  {[]read{{10 * ms, 1}, {50 * ms, nobody}, {95 * ms, 1}}, 85 * ms},
		"no answer at all":    {[]read{{50 * ms, nobody}}, 100 * ms},
		"not even a question": {nil, 100 * ms},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := longestWait(test.reads, 100*ms); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestSpreadNeverFlatters(t *testing.T) {
	t.Parallel()
	tests := []struct {
		values               []int
		median, least, worst int
	}{
		{nil, 0, 0, 0},
		{[]int{7}, 7, 7, 7},
		{[]int{9, 3}, 9, 3, 9},
		{[]int{5, 1, 4, 2, 3}, 3, 1, 5},
	}
	for _, test := range tests {
		median, least, worst := spreadOf(test.values)
		if median != test.median || least != test.least || worst != test.worst {
			t.Errorf("%v: got %d, %d, %d", test.values, median, least, worst)
		}
	}
}
