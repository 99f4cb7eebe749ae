package hasql

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/pgerr"
)

// briefQuery gives the transaction an id, and writes a record that bears it. The record of a transactional message is the only one
// that anybody may write. Where the WAL is decoded, it would be seen; there the position is asked for with COMMIT.
const briefQuery = `select pg_current_xact_id()::text::int8,
 coalesce(case when current_setting('wal_level') <> 'logical' then (pg_logical_emit_message(true, 'hasql', '') - '0/0'::pg_lsn)::int8 end, 0),
 (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8,
 (current_setting('transaction_isolation') like 'read %')::int::int8`

// traceQuery asks besides for what stays the same as long as a session lasts.
const traceQuery = briefQuery + `,
 pg_backend_pid()::int8,` + whereabouts

// lateQuery comes right before COMMIT. Whoever has written nothing by then has no id.
const lateQuery = `select coalesce(pg_current_xact_id_if_assigned()::text::int8, 0),
 (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8,
 (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8,
 1::int8,
 pg_backend_pid()::int8,` + whereabouts

// traceKey is where a connection keeps what a trace has told of its session.
const traceKey = "hasql: trace"

// traceRow are the columns of all three.
type traceRow struct {
	xid, lsn, flushed, readCommitted  int64
	pid, timeline, recovered, started int64
}

func (r *traceRow) fields() []any {
	return append(r.brief(), &r.pid, &r.timeline, &r.recovered, &r.started)
}

func (r *traceRow) brief() []any { return []any{&r.xid, &r.lsn, &r.flushed, &r.readCommitted} }

// learn notes what a row tells.
func (t *transaction) learn(r *traceRow) {
	trace := &t.lost.trace
	trace.Life = evidence.Life{Timeline: uint32(r.timeline), Recovered: uint64(r.recovered), Started: r.started}
	trace.XID, trace.LSN, trace.PID = uint64(r.xid), uint64(r.lsn), int32(r.pid)
	t.commits.cluster.history.Flushed(trace.Node, trace.Life, uint64(r.flushed))
}

// locate notes where the transaction runs.
func (t *transaction) locate() {
	trace := &t.lost.trace
	if was := t.route.originOf(t.conn, t.commits.cluster.snapshot()); was != nil {
		trace.Node, trace.SystemID = was.node.id(), was.Report.SystemID
		trace.Life.Timeline = was.Report.Timeline // of a mark; a trace tells its own
		t.pooled = was.Report.Pooler
		return
	}
	t.pooled = true
	config := t.conn.Conn().Config()
	trace.Node = fmt.Sprintf("%s:%d", config.Host, config.Port)
}

// beginTraced falls back to no trace where the server does not have what tells it, or does not allow it.
func (t *transaction) beginTraced(ctx context.Context) error {
	var row traceRow
	query, fields := traceQuery, row.fields
	known, _ := t.conn.Conn().PgConn().CustomData()[traceKey].(*traceRow)
	if known != nil {
		row, query, fields = *known, briefQuery, row.brief
	}
	err := t.beginWith(ctx, func(b *pgx.Batch) {
		b.Queue(query).QueryRow(func(r pgx.Row) error { return r.Scan(fields()...) })
	})
	// A session ends with the life of its server. Behind a pooler the next transaction may have another one; there the
	// process is not the one that the connection was told of.
	if pg := t.conn.Conn().PgConn(); err == nil && known == nil && row.pid == int64(pg.PID()) {
		kept := row
		pg.CustomData()[traceKey] = &kept
	}
	switch {
	case err == nil && row.readCommitted == 0:
		t.commits.cluster.tracing.lateByDefault.Store(true) // the default level of this service has a lasting snapshot
		t.way = tracedLate
	case err == nil:
		t.learn(&row)
		return nil
	case !untraceable(err) || t.conn.Conn().PgConn().IsClosed():
		return err
	default:
		if !isForgotten(err) {
			t.commits.cluster.tracing.warnUntraceable(t.commits.config.Logger, t.lost.trace.Node, err)
		}
		t.way = untraced
	}
	if err == nil {
		t.rollBack(ctx)
	}
	t.inner, err = t.conn.BeginTx(ctx, t.options.TxOptions)
	return err
}

// untraceable reports whether a server does not have what tells an outcome: a product that speaks PostgreSQL's protocol, or a server
// on which those functions were revoked.
func untraceable(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code != pgerr.ReadOnlySQLTransaction && pgerr.IsStatementRefusal(err)
}

// isForgotten reports whether the session has lost what pgx had prepared, by DEALLOCATE or DISCARD. pgx prepares it anew next time.
func isForgotten(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == pgerr.InvalidStatementName
}

// commitTraced asks for the position, and commits. The server sends the position before it commits, so that it is known if the
// answer to COMMIT gets lost.
func (t *transaction) commitTraced(ctx context.Context) error {
	var row traceRow
	learnt := func() {
		if t.way == tracedLate && row.xid == 0 {
			t.lost.nothing = true
		} else if t.way == tracedLate || row.xid == int64(t.lost.trace.XID) {
			t.learn(&row)
		}
	}
	if simple(t.conn) {
		if err := t.inner.QueryRow(ctx, lateQuery).Scan(row.fields()...); err != nil {
			return &unsentError{err}
		}
		learnt()
		return t.inner.Commit(ctx)
	}
	return t.pipeline(ctx, lateQuery, nil, func(values [][]byte) error {
		if err := scanText(values, row.fields()); err != nil {
			return err
		}
		learnt()
		return nil
	})
}
