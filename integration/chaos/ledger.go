package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/workload"
)

// The ledger compares what clients were told of their writes with the history on the server. Its functions depend on their
// arguments alone.

// outcome is what a client knows about a write that has ended.
type outcome int

const (
	unknown      outcome = iota // the write may have taken effect
	acknowledged                // it has taken effect
	refused                     // it has not taken effect; the caller may send it again
	lost                        // it had taken effect, but the new master never received it (asynchronous replication)
)

// classify returns what a caller concludes from the error of a write. sent says that the write was sent; for a transaction,
// that its COMMIT was sent. Before that, nothing can have taken effect. FATAL 57P01 says that the write was undone, unless
// the server may send it after the commit: see doubt.
func classify(err error, sent, doubtful bool) outcome {
	if err == nil {
		return acknowledged
	}
	if !sent || pgconn.SafeToRetry(err) {
		return refused
	}
	if _, ok := errors.AsType[*hasql.NoNodeError](err); ok {
		return refused
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		if pgErr.SeverityUnlocalized == "ERROR" || pgErr.Code == "57P01" && !doubtful {
			return refused
		}
	}
	return unknown
}

// claim is a write as its client saw it.
type claim struct {
	mark    int64  // number of the write; every change that it makes has it in the history
	by      string // its client and the way to write
	rows    int    // number of its changes; it makes all of them or none
	alone   bool   // a single statement on a route
	outcome outcome
	err     error
	change  change // the change that was acknowledged; its version is 0 if the client was not told
	node    int    // the node that acknowledged it, nobody if the client was not told
	master  int    // the only master during the whole write, nobody if that changed
	trusted int    // the node that its service took for the master when the write began
	told    bool   // an audit has reported its violation
}

// nobody stands for an unknown node.
const nobody = workload.Nobody

// change is one line of the true history: a new version of a register, or an entry, which has register and version 0.
type change struct {
	register int
	version  int64
	mark     int64
}

// violation compares a claim with its changes in the history. It returns "" if they agree.
func (c *claim) violation(made []change) string {
	problem := ""
	switch n := len(made); {
	case n != 0 && n != c.rows:
		problem = fmt.Sprintf("made %d changes instead of %d", n, c.rows)
	case n == 0 && c.outcome == acknowledged:
		problem = "was acknowledged and is lost"
	case n > 0 && c.outcome == refused:
		problem = fmt.Sprintf("took effect, though its error says that it did not: %v", c.err)
	case n > 0 && c.outcome == lost:
		problem = "was lost and is there again"
	case c.outcome == acknowledged && c.node != nobody && c.master != nobody && c.node != c.master:
		problem = fmt.Sprintf("was acknowledged by n%d while n%d was the only master", c.node+1, c.master+1)
	case c.outcome == acknowledged && c.change.version != 0 && !slices.Contains(made, c.change):
		problem = fmt.Sprintf("was acknowledged as %v, but the history has %v", c.change, made)
	}
	if problem == "" {
		return ""
	}
	return fmt.Sprintf("write %d (%s) %s", c.mark, c.by, problem)
}

func (c change) String() string {
	return fmt.Sprintf("version %d of register %d", c.version, c.register)
}

// excusable reports whether a write may be lost in an asynchronous failover to the node next: its service did not know yet
// that next is the master.
func (c *claim) excusable(next int) bool { return c.outcome == acknowledged && c.trusted != next }

// byMark groups changes by their writes.
func byMark(changes []change) map[int64][]change {
	marks := make(map[int64][]change)
	for _, c := range changes {
		marks[c.mark] = append(marks[c.mark], c)
	}
	return marks
}

// check compares all claims with the whole history, and returns the violations that no audit has reported yet.
func check(claims []*claim, history []change) (problems []string) {
	marks := byMark(history)
	for _, c := range claims {
		if problem := c.violation(marks[c.mark]); problem != "" && !c.told {
			problems = append(problems, problem)
		}
		delete(marks, c.mark)
	}
	for mark, changes := range marks {
		problems = append(problems, fmt.Sprintf("write %d made %d changes, and no client sent it", mark, len(changes)))
	}
	return append(problems, gaps(history)...)
}

// gaps checks that the versions of each register are 1, 2, 3, …
func gaps(history []change) (problems []string) {
	versions := make(map[int][]int64)
	for _, c := range history {
		if c.register != 0 {
			versions[c.register] = append(versions[c.register], c.version)
		}
	}
	for register, list := range versions {
		slices.Sort(list)
		for i, version := range list {
			if version != int64(i)+1 {
				problems = append(problems, fmt.Sprintf("register %d has version %d instead of %d", register, version, i+1))
				break
			}
		}
	}
	return problems
}
