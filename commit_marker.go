package hasql

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"

	_ "embed"
)

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
