package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// TestFewFailovers is a short form of "make chaos". Its failovers differ each time; the seed that it prints repeats them.
func TestFewFailovers(t *testing.T) {
	err := run(t.Context(), t.Output(), rand.Uint64N(1e6), kinds, 5, false)
	if errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") != "1" {
		t.Skipf("skipped, because PostgreSQL is missing: %v", err)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestSeedDrawsTheSameFailovers(t *testing.T) {
	dealt := func(seed uint64) (rounds []string, count map[string]int) {
		count = make(map[string]int)
		for _, r := range drawRounds(rand.New(rand.NewPCG(seed, 0)), kinds, 3*len(kinds)) {
			rounds = append(rounds, r.String())
			count[r.name]++
		}
		return rounds, count
	}
	once, count := dealt(7)
	if again, _ := dealt(7); !slices.Equal(once, again) {
		t.Errorf("seed 7 dealt %q, then %q", once, again)
	}
	if other, _ := dealt(8); slices.Equal(once, other) {
		t.Error("seeds 7 and 8 dealt the same")
	}
	for _, k := range kinds {
		if count[k.name] != 3 {
			t.Errorf("%s was dealt %d times in three decks", k.name, count[k.name])
		}
	}
}

func TestKindsAreChosenByName(t *testing.T) {
	if list, err := kindsByName("freeze,crash"); err != nil || len(list) != 2 || list[0].name != "freeze" || list[1].name != "crash" {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := kindsByName(""); err != nil || len(list) != len(kinds) {
		t.Errorf("all: %v, %v", list, err)
	}
	if _, err := kindsByName("crash,flood"); err == nil || !strings.Contains(err.Error(), `"flood"`) {
		t.Errorf("an unknown kind: %v", err)
	}
}

func TestMisled(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	master := hasql.NodeState{Role: hasql.RoleMaster, Status: hasql.StatusUp, Since: early}
	stale := hasql.NodeState{Status: hasql.StatusStale, Since: early}
	staleAgain := hasql.NodeState{Status: hasql.StatusStale, Since: late}
	for name, test := range map[string]struct {
		before, after hasql.NodeState
		want          bool
	}{
		"the master stays":               {master, master, false},
		"stale all the time":             {stale, stale, true},
		"became stale meanwhile":         {master, staleAgain, false},
		"became master meanwhile":        {stale, hasql.NodeState{Role: hasql.RoleMaster, Status: hasql.StatusUp, Since: late}, false},
		"was master for a moment":        {stale, staleAgain, false},
		"a replica all the time, though": {hasql.NodeState{Role: hasql.RoleReplica, Since: early}, hasql.NodeState{Role: hasql.RoleReplica, Since: early}, true},
	} {
		if got := misled(test.before, test.after, hasql.RoleMaster); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLongestGapIsBetweenSuccessesOfOneKind(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	failed := errors.New("x")
	ops := []op{
		{"a", true, at(100), nil},
		{"a", true, at(0), nil},
		{"a", true, at(400), nil},
		{"a", true, at(200), failed},
		{"a", false, at(250), nil},
		{"b", true, at(260), nil},
	}
	if got := longestGap(ops, "a", true); got != 300*time.Millisecond {
		t.Errorf("gap of a: %v", got)
	}
	if got := longestGap(ops, "b", true); got != 0 {
		t.Errorf("gap of b: %v", got)
	}
	if w, r := failures(ops, true), failures(ops, false); w != 1 || r != 0 {
		t.Errorf("%d failed writes, %d reads", w, r)
	}
}

func TestOperationsMayFailOnAffectedNodesOnly(t *testing.T) {
	b := newRecorder()
	c := &client{service: &service{setting: setting{name: "direct"}}, writes: true}
	failed := op{write: true, err: errors.New("reset")}
	b.beginRound("failover 1, crash")
	b.expectErrors("n1")
	b.addOperation(c, failed, "n1")
	b.addOperation(c, failed, "") // on a route: nobody knows where
	b.addOperation(c, op{write: true}, "n2")
	if wrong := b.allViolations(); len(wrong) != 0 || b.done[c] != 1 {
		t.Errorf("violations %q, done %v", wrong, b.done)
	}
	b.addOperation(c, failed, "n2")
	b.expectNoErrors()
	b.addOperation(c, failed, "n1")
	b.addOperation(c, failed, "")
	wrong := b.allViolations()
	if len(wrong) != 3 || !strings.Contains(wrong[0], "failover 1, crash") ||
		!strings.Contains(wrong[0], "direct writer 1: failed on n2, which no fault affects: reset") ||
		!strings.Contains(wrong[1], "failed on n1, which no fault affects") ||
		!strings.Contains(wrong[2], "failed, though no fault affects any node: reset") {
		t.Errorf("violations: %q", wrong)
	}
}

func TestGoroutinesOfTheLibraryAreCounted(t *testing.T) {
	for stack, want := range map[string]bool{
		"goroutine 7 [select]:\ngithub.com/pghasql/hasql.(*monitor).run(0xc0000d5080)":                      true,
		"goroutine 7 [IO wait]:\ngithub.com/jackc/pgx/v5/pgconn.(*PgConn).Exec(0xc0000d5080)":               true,
		"goroutine 7 [IO wait]:\ngithub.com/jackc/pgx/v5/pgconn/internal/bgreader.(*BGReader).bgRead(0xc0)": false,
		"goroutine 7 [select]:\nmain.(*client).work(0xc0000d5080)":                                          false,
	} {
		if works(stack) != want {
			t.Errorf("%q: %v", stack, !want)
		}
	}
}

func TestHoldingsAreComparedOneByOne(t *testing.T) {
	limit := holdings{library: 1, goroutines: 2, descriptors: 3, sessions: 4}
	if limit.exceeds(limit) {
		t.Error("the limit exceeds itself")
	}
	for _, h := range []holdings{{2, 0, 0, 0}, {0, 3, 0, 0}, {0, 0, 4, 0}, {0, 0, 0, 5}} {
		if !h.exceeds(limit) {
			t.Errorf("%v does not exceed %v", h, limit)
		}
	}
}
