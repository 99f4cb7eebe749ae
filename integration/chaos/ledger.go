package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
)

// The ledger: what clients were told of their writes, against what really became of them. Pure functions of values.

// outcome is what a client knows of a write when it is over.
type outcome int

const (
	unknown      outcome = iota // it may have taken effect
	acknowledged                // it has
	refused                     // it has not: a caller may ask again
	lost                        // it had, and the new master never received it: asynchronous replication
)

// classify says what a caller concludes from the error of a write. Before the write was sent, which for a transaction
// means its COMMIT, nothing can have taken effect. FATAL 57P01 says that it was undone, unless it may come behind the
// commit: see doubt.
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
	mark    int64  // what every change that it makes bears in the history; not unique there
	by      string // its client, and the way it was done
	rows    int    // it makes so many changes, or none
	alone   bool   // a single statement on a route
	outcome outcome
	err     error
	change  change // the one that it was acknowledged as; its version is 0 if the client was not told
	node    int    // who acknowledged it, nobody if the client was not told
	master  int    // who was the only master from before its beginning to its end, nobody if that changed
	trusted int    // whom its service took for the master when it began
	told    bool   // an audit has said what is wrong with it
}

// nobody is the node of a claim of which that is not known.
const nobody = -1

// change is one line of the true history: a new version of a register, or an entry, which has register and version 0.
type change struct {
	register int
	version  int64
	mark     int64
}

// wrong says what is wrong with a claim of which the history holds these changes, "" if nothing is.
func (c *claim) wrong(made []change) string {
	problem := ""
	switch n := len(made); {
	case n != 0 && n != c.rows:
		problem = fmt.Sprintf("made %d changes instead of %d", n, c.rows)
	case n == 0 && c.outcome == acknowledged:
		problem = "was acknowledged, and is lost"
	case n > 0 && c.outcome == refused:
		problem = fmt.Sprintf("took effect, but the client had to take it for undone: %v", c.err)
	case n > 0 && c.outcome == lost:
		problem = "was lost once, and is there again"
	case c.outcome == acknowledged && c.node != nobody && c.master != nobody && c.node != c.master:
		problem = fmt.Sprintf("was acknowledged by n%d, when n%d had long been the master", c.node+1, c.master+1)
	case c.outcome == acknowledged && c.change.version != 0 && !slices.Contains(made, c.change):
		problem = fmt.Sprintf("was acknowledged as %v, and is %v", c.change, made)
	}
	if problem == "" {
		return ""
	}
	return fmt.Sprintf("write %d (%s) %s", c.mark, c.by, problem)
}

func (c change) String() string {
	return fmt.Sprintf("version %d of register %d", c.version, c.register)
}

// excusable reports whether a claim may be lost in an asynchronous failover to a node: its service did not know yet that
// this one is the master.
func (c *claim) excusable(next int) bool { return c.outcome == acknowledged && c.trusted != next }

// byMark sorts changes by their writes.
func byMark(changes []change) map[int64][]change {
	marks := make(map[int64][]change)
	for _, c := range changes {
		marks[c.mark] = append(marks[c.mark], c)
	}
	return marks
}

// judge compares all claims with the whole history, and says what no audit has said yet.
func judge(claims []*claim, history []change) (problems []string) {
	marks := byMark(history)
	for _, c := range claims {
		if problem := c.wrong(marks[c.mark]); problem != "" && !c.told {
			problems = append(problems, problem)
		}
		delete(marks, c.mark)
	}
	for mark, changes := range marks {
		problems = append(problems, fmt.Sprintf("write %d made %d changes, and nobody asked for it", mark, len(changes)))
	}
	return append(problems, gaps(history)...)
}

// gaps checks that each register went from version to version by one.
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
				problems = append(problems, fmt.Sprintf("register %d has version %d where %d was to come", register, version, i+1))
				break
			}
		}
	}
	return problems
}
