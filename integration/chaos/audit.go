package main

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/pgcluster"
)

const (
	someSQL = `select register, version, mark from history where mark = any($1)`
	allSQL  = `select register, version, mark from history`
)

// audit compares what clients did and saw since the last audit with the master's history, and counts what it finds.
func (f *failover) audit(ctx context.Context, res *result) error {
	claims, seen := f.recorder.unaudited()
	var marks []int64
	for _, c := range claims {
		marks = append(marks, c.mark)
	}
	for s := range seen {
		marks = append(marks, s.mark)
	}
	history, err := f.history(ctx, f.nodes[f.next], someSQL, marks)
	if err != nil {
		return err
	}
	f.compare(claims, seen, byMark(history), res)
	return nil
}

// compare records a violation for each client that was told something that is not in the history.
func (f *failover) compare(claims []*claim, seen map[change]*client, history map[int64][]change, res *result) {
	for _, c := range claims {
		made := history[c.mark]
		if len(made) == 0 && f.asynchronous && c.excusable(f.next) {
			c.outcome = lost
			res.lost++
		}
		if c.outcome == unknown {
			res.unknown++
			res.inEffect += min(1, len(made))
		}
		if f.orderly && c.alone && c.outcome == refused && c.err != errBeaten {
			f.recorder.addViolation("write %d (%s) was refused and not sent again: %v", c.mark, c.by, c.err)
		}
		if problem := c.violation(made); problem != "" {
			f.recorder.addViolation("%s", problem)
			c.told = true
		}
	}
	for s, reader := range seen {
		if !f.asynchronous && !slices.Contains(history[s.mark], s) {
			f.recorder.addViolation("%s: saw %v of write %d, which is not in the history: %v", reader, s, s.mark, history[s.mark])
		}
	}
}

// history returns changes from the history of a node.
func (t *testbed) history(ctx context.Context, n *pgcluster.Node, sql string, args ...any) ([]change, error) {
	conn, err := n.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c change, err error) {
		err = row.Scan(&c.register, &c.version, &c.mark)
		return c, err
	})
}

// inspect compares all that clients did with the whole history, and the history on each replica with that on the master. No
// client may be at work.
func (t *testbed) inspect(ctx context.Context) error {
	master := t.nodes[t.term.Load().node]
	truth, err := t.history(ctx, master, allSQL)
	if err != nil {
		return err
	}
	for _, problem := range check(t.recorder.claims, truth) {
		t.recorder.addViolation("%s", problem)
	}
	for _, n := range t.nodes {
		if n == master {
			continue
		}
		if err := n.WaitStreaming(ctx, master); err != nil {
			return err
		}
		copied, err := t.history(ctx, n, allSQL)
		if err != nil {
			return err
		}
		if !same(copied, truth) {
			t.recorder.addViolation("the history on %s differs from the one on %s", n.Name(), master.Name())
		}
	}
	return nil
}

// same reports whether two histories hold the same changes, in whatever order.
func same(a, b []change) bool {
	count := make(map[change]int)
	for _, c := range a {
		count[c]++
	}
	for _, c := range b {
		count[c]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
