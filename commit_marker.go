package hasql

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	_ "embed"
)

//go:embed commit_marker.sql
var commitMarkerSQL string

// CommitMarkerSQL returns the statements that make a table for [TxOptions.Marker], for a migration: "hasql_commit", or any other
// name, with a schema before it if you like. Nothing happens if the table exists. The file commit_marker.sql has the same.
//
// The table keeps a row for each transaction that a process had open at the same time. Rows that are old may be deleted at any
// time, unless a [CommitID] of that time is still to be resolved.
func CommitMarkerSQL(table string) string {
	return strings.ReplaceAll(commitMarkerSQL, "hasql_commit", identifier(table).Sanitize())
}

func identifier(table string) pgx.Identifier { return strings.Split(table, ".") }

// setMark leaves the mark, and tells the session that did.
func setMark(table string) string {
	return `insert into ` + identifier(table).Sanitize() + ` (client, slot, seq) values ($1::uuid, $2::int, $3::int8)
 on conflict (client, slot) do update set seq = excluded.seq, at = excluded.at
 returning pg_current_xact_id()::text::int8, pg_backend_pid()::int8, (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8`
}

// askMark reads the mark. It waits for a transaction that has it and has not ended, also for the first one of a place, which others
// cannot see; and one that made it with COMMIT cannot make it any more, as it has changed behind its snapshot.
func askMark(table string) string {
	return `insert into ` + identifier(table).Sanitize() + ` as c (client, slot, seq) values ($1::uuid, $2::int, 0)
 on conflict (client, slot) do update set at = excluded.at returning c.seq`
}

func (t *transaction) takeMark() []any {
	t.lost.mark, t.lost.marker = t.commits.cluster.marks.take(), t.options.Marker
	return []any{t.lost.mark.client, t.lost.mark.slot, t.lost.mark.seq}
}

// learnMark notes which session has left the mark.
func (t *transaction) learnMark(xid, pid, started int64) {
	trace := &t.lost.trace
	trace.XID, trace.PID, trace.Life.Started = uint64(xid), int32(pid), started
}

// beginMarked leaves the mark with BEGIN.
func (t *transaction) beginMarked(ctx context.Context) error {
	var xid, pid, started int64
	args := t.takeMark()
	err := t.beginWith(ctx, func(b *pgx.Batch) {
		b.Queue(setMark(t.options.Marker), args...).QueryRow(func(r pgx.Row) error { return r.Scan(&xid, &pid, &started) })
	})
	if err == nil {
		t.learnMark(xid, pid, started)
	}
	return err
}

// commitMarked leaves the mark with COMMIT.
func (t *transaction) commitMarked(ctx context.Context) error {
	var xid, pid, started int64
	args := t.takeMark()
	if simple(t.conn) {
		if err := t.inner.QueryRow(ctx, setMark(t.options.Marker), args...).Scan(&xid, &pid, &started); err != nil {
			return &unsentError{err}
		}
		t.learnMark(xid, pid, started)
		return t.inner.Commit(ctx)
	}
	m := t.lost.mark
	text := [][]byte{[]byte(m.client), []byte(strconv.Itoa(int(m.slot))), []byte(strconv.FormatInt(m.seq, 10))}
	return t.pipeline(ctx, setMark(t.options.Marker), text, func(values [][]byte) error {
		if err := scanText(values, []any{&xid, &pid, &started}); err != nil {
			return err
		}
		t.learnMark(xid, pid, started)
		return nil
	})
}

var errMarkTaken = errors.New("the place of its mark was taken by a later transaction")

// judgeMark tells what the mark that was found says.
func (l *lostCommit) judgeMark(seq int64) (applied bool, err error) {
	switch {
	case seq == l.mark.seq:
		return true, nil
	case seq < l.mark.seq:
		return false, nil
	}
	return false, fmt.Errorf("%w (%d, not %d)", errMarkTaken, seq, l.mark.seq)
}
