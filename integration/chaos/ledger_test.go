package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
)

// safe is an error that says that nothing was sent.
type safe struct{}

func (safe) Error() string     { return "not sent" }
func (safe) SafeToRetry() bool { return true }

func TestErrorsSayWhatBecameOfAWrite(t *testing.T) {
	fatal := func(code string) error { return &pgconn.PgError{SeverityUnlocalized: "FATAL", Code: code} }
	for name, test := range map[string]struct {
		err            error
		sent, doubtful bool
		want           outcome
	}{
		"no error":                        {nil, true, true, acknowledged},
		"safe to retry":                   {fmt.Errorf("exec: %w", safe{}), true, true, refused},
		"the end of a socket":             {io.ErrUnexpectedEOF, true, false, unknown},
		"the end of a socket, unsent":     {io.ErrUnexpectedEOF, false, false, refused},
		"a cut":                           {&hasql.NodeDownError{}, true, false, unknown},
		"no node":                         {&hasql.NoNodeError{}, true, false, refused},
		"an error of the statement":       {&pgconn.PgError{SeverityUnlocalized: "ERROR", Code: "25006"}, true, true, refused},
		"a shutdown":                      {fatal("57P01"), true, false, refused},
		"a shutdown, perhaps behind it":   {fatal("57P01"), true, true, unknown},
		"a crash of another session":      {fatal("57P02"), true, false, unknown},
		"the same before COMMIT was sent": {fatal("57P02"), false, true, refused},
	} {
		if got := classify(test.err, test.sent, test.doubtful); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// TestViolationsAreFound puts violations into a ledger without any.
func TestViolationsAreFound(t *testing.T) {
	write := func(mark int64, o outcome) *claim {
		return &claim{mark: mark, by: "direct writer 1, Exec", rows: 1, outcome: o, node: nobody, master: nobody}
	}
	told := write(1, acknowledged)
	told.change, told.node, told.master = change{7, 1, 1}, 0, 0
	pair := write(5, acknowledged)
	pair.rows = 2
	claims := []*claim{told, write(2, refused), write(3, unknown), write(4, unknown), pair, write(6, lost)}
	claims[1].err = errors.New("not sent")
	history := []change{{7, 2, 3}, {7, 1, 1}, {7, 3, 5}, {0, 0, 5}}
	if problems := check(claims, history); len(problems) != 0 {
		t.Fatalf("in a ledger without violations: %q", problems)
	}
	for name, test := range map[string]struct {
		history []change
		claim   func(*claim) // of write 1
		want    []string
	}{
		"a lost write": {
			history: []change{{7, 1, 3}, {7, 2, 5}, {0, 0, 5}},
			want:    []string{"write 1 (direct writer 1, Exec) was acknowledged and is lost"},
		},
		"a duplicate": {
			history: append(slices.Clone(history), change{7, 4, 1}),
			want:    []string{"write 1 (direct writer 1, Exec) made 2 changes instead of 1"},
		},
		"a duplicate of an entry whose end nobody knows": {
			history: append(slices.Clone(history), change{0, 0, 4}, change{0, 0, 4}),
			want:    []string{"write 4 (direct writer 1, Exec) made 2 changes instead of 1"},
		},
		"half a transaction": {
			history: history[:3],
			want:    []string{"write 5 (direct writer 1, Exec) made 1 changes instead of 2"},
		},
		"a stale acknowledgement": {
			history: history,
			claim:   func(c *claim) { c.master = 1 },
			want:    []string{"write 1 (direct writer 1, Exec) was acknowledged by n1 while n2 was the only master"},
		},
		"an acknowledgement of another version": {
			history: history,
			claim:   func(c *claim) { c.change.version = 2 },
			want:    []string{"write 1 (direct writer 1, Exec) was acknowledged as version 2 of register 7, but the history has [version 1 of register 7]"},
		},
		"a false word that it is safe to retry": {
			history: append(slices.Clone(history), change{0, 0, 2}),
			want:    []string{"write 2 (direct writer 1, Exec) took effect, though its error says that it did not: not sent"},
		},
		"a lost write that comes back": {
			history: append(slices.Clone(history), change{0, 0, 6}),
			want:    []string{"write 6 (direct writer 1, Exec) was lost and is there again"},
		},
		"a write of nobody": {
			history: append(slices.Clone(history), change{0, 0, 8}),
			want:    []string{"write 8 made 1 changes, and no client sent it"},
		},
		"a version that is missing": {
			history: []change{{7, 3, 3}, {7, 1, 1}, {7, 4, 5}, {0, 0, 5}},
			want:    []string{"register 7 has version 3 instead of 2"},
		},
		"a version that comes twice": {
			history: []change{{7, 2, 3}, {7, 1, 1}, {7, 2, 5}, {0, 0, 5}},
			want:    []string{"register 7 has version 2 instead of 3"},
		},
	} {
		original := *told
		if test.claim != nil {
			test.claim(told)
		}
		if got := check(claims, test.history); !slices.Equal(got, test.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, test.want)
		}
		*told = original
	}
}

func TestLossIsExcusedWhereTheNewMasterIsUnknown(t *testing.T) {
	for name, test := range map[string]struct {
		claim claim
		want  bool
	}{
		"the old one was trusted": {claim{outcome: acknowledged, trusted: 0}, true},
		"nobody was":              {claim{outcome: acknowledged, trusted: nobody}, true},
		"the new one was":         {claim{outcome: acknowledged, trusted: 1}, false},
		"not acknowledged":        {claim{outcome: unknown, trusted: 0}, false},
	} {
		if got := test.claim.excusable(1); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestAudit shows what is no violation in some kinds of failover.
func TestAudit(t *testing.T) {
	reader := &client{service: &service{setting: setting{name: "direct"}}}
	for name, test := range map[string]struct {
		kind  kind
		claim *claim
		seen  change
		want  string // "" for no violation
		lost  int
	}{
		"an acknowledged write is lost":            {claim: &claim{outcome: acknowledged}, want: "lost"},
		"… where the standbys are asynchronous":    {kind: kind{asynchronous: true}, claim: &claim{outcome: acknowledged}, lost: 1},
		"… though the new master was known":        {kind: kind{asynchronous: true}, claim: &claim{outcome: acknowledged, trusted: 1}, want: "lost"},
		"a statement on a route is sent back":      {claim: &claim{alone: true, outcome: refused}},
		"… by an orderly shutdown":                 {kind: kind{orderly: true}, claim: &claim{alone: true, outcome: refused}, want: "not sent again"},
		"… and it was a transaction":               {kind: kind{orderly: true}, claim: &claim{outcome: refused}},
		"… and somebody else was faster":           {kind: kind{orderly: true}, claim: &claim{alone: true, outcome: refused, err: errBeaten}},
		"a version is read that never was":         {seen: change{7, 2, 1}, want: "not in the history"},
		"… but the standbys were asynchronous":     {kind: kind{asynchronous: true}, seen: change{7, 2, 1}},
		"a version is read that is in the history": {seen: change{7, 3, 5}},
	} {
		f := &failover{testbed: newTestbed(1), round: round{kind: test.kind}, next: 1}
		var claims []*claim
		if test.claim != nil {
			claims = append(claims, test.claim)
		}
		seen := make(map[change]*client)
		if test.seen.version > 0 {
			seen[test.seen] = reader
		}
		var res result
		f.compare(claims, seen, byMark([]change{{7, 3, 5}}), &res)
		wrong := strings.Join(f.recorder.allViolations(), "\n")
		if (wrong == "") != (test.want == "") || !strings.Contains(wrong, test.want) || res.lost != test.lost {
			t.Errorf("%s: violations %q, %d lost", name, wrong, res.lost)
		}
	}
}

func TestHistoriesAreTheSameInAnyOrder(t *testing.T) {
	a, b := change{1, 1, 1}, change{0, 0, 2}
	if !same([]change{a, b, b}, []change{b, a, b}) || same([]change{a, b, b}, []change{a, b, a}) || same([]change{a}, nil) {
		t.Error("wrong")
	}
}
