package hasql

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/pgerr"
)

// way is how a transaction learns what tells its outcome.
type way uint8

const (
	untraced   way = iota // not at all
	traced                // by a message in the WAL, sent with BEGIN
	tracedLate            // by its position in the WAL, asked for with COMMIT
	marked                // by a mark, made with BEGIN
	markedLate            // by a mark, made with COMMIT
)

// wayOf chooses the way. What needs a snapshot must not come with BEGIN where the snapshot lasts: there the first statement of the
// transaction is to fix it. A mark comes with COMMIT only there: see askMark.
func (r *Route) wayOf(o *TxOptions) way {
	late := o.IsoLevel == pgx.RepeatableRead || o.IsoLevel == pgx.Serializable || o.IsoLevel == "" && r.cluster.marks.lateByDefault.Load()
	switch {
	case o.AccessMode == pgx.ReadOnly || o.CommitQuery != "":
		return untraced
	case o.Marker != "" && late:
		return markedLate
	case o.Marker != "":
		return marked
	case o.NoTrace || !r.config.TraceCommits || o.BeginQuery != "" || r.criteria.target != TargetMaster:
		return untraced
	case late, o.MayOnlyRead:
		return tracedLate
	}
	return traced
}

// whereabouts are the columns that tell in which life of a server a session is.
const whereabouts = `
 ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int8,
 coalesce((pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8, 0),
 (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8`

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

// begin begins the transaction, and has it traced.
func (t *transaction) begin(ctx context.Context) (err error) {
	t.lost.verify = t.options.Verify
	t.locate()
	if t.way == traced && t.commits.cluster.marks.untraceable(t.lost.trace.Node) {
		t.way = untraced
	}
	switch t.way {
	case traced:
		err = t.beginTraced(ctx)
	case marked:
		err = t.beginMarked(ctx)
	default:
		t.inner, err = t.conn.BeginTx(ctx, t.options.TxOptions)
	}
	return err
}

// locate notes where the transaction runs.
func (t *transaction) locate() {
	trace := &t.lost.trace
	if was := t.route.originOf(t.conn, t.commits.cluster.snapshot()); was != nil {
		trace.Node, trace.SystemID = was.Name, was.Report.SystemID
		trace.Life.Timeline = was.Report.Timeline // of a mark; a trace tells its own
		t.pooled = was.Report.Pooler
		return
	}
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
		t.commits.cluster.marks.lateByDefault.Store(true) // the default level of this service has a lasting snapshot
		t.way = tracedLate
	case err == nil:
		t.learn(&row)
		return nil
	case !untraceable(err) || t.conn.Conn().PgConn().IsClosed():
		return err
	default:
		t.commits.cluster.marks.warnUntraceable(t.commits.config.Logger, t.lost.trace.Node, err)
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

// beginWith begins the transaction, and asks something in the same message. If that fails there is no transaction.
func (t *transaction) beginWith(ctx context.Context, ask func(*pgx.Batch)) error {
	b := new(pgx.Batch)
	b.BeginTx(t.options.TxOptions)
	ask(b)
	results := t.conn.SendBatch(ctx, b)
	err := results.Close()
	t.inner = results.Tx()
	if err != nil && t.conn.Conn().PgConn().TxStatus() != 'I' && !t.conn.Conn().PgConn().IsClosed() {
		t.rollBack(ctx)
	}
	return err
}

// unsentError is the end of what came before COMMIT, which was not sent then, or skipped.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }

// preceded reports whether the server ended the session before it came to COMMIT: it sends what tells the outcome before that, and has
// said its last word instead. A pooler may say such a word in its own name.
func (t *transaction) preceded(err error) bool {
	return t.asked && !t.told && !t.pooled && pgerr.IsFatal(err, pgerr.AdminShutdown)
}

// sendCommit sends COMMIT, with what tells the outcome if that is due now. A transaction that has failed gets none: it is rolled back.
func (t *transaction) sendCommit(ctx context.Context) error {
	if t.conn.Conn().PgConn().TxStatus() == 'T' {
		switch {
		case t.way == markedLate:
			return t.commitMarked(ctx)
		case t.way == tracedLate, t.way == traced && t.lost.trace.LSN == 0:
			return t.commitTraced(ctx)
		}
	}
	return t.inner.Commit(ctx)
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

// simple reports whether the connection is to use the simple protocol, for the sake of a pooler perhaps.
func simple(conn *pgxpool.Conn) bool {
	return conn.Conn().Config().DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol
}

// pipeline sends a statement of one row and COMMIT in one message. The row is told before COMMIT is answered.
func (t *transaction) pipeline(ctx context.Context, sql string, args [][]byte, told func([][]byte) error) (err error) {
	p := t.conn.Conn().PgConn().StartPipeline(ctx)
	defer func() {
		if closed := p.Close(); err == nil {
			err = closed
		}
		switch pg := t.conn.Conn().PgConn(); {
		case err == nil || pg.IsClosed() || pg.TxStatus() == 'I':
		case pg.TxStatus() == 'E': // the server has skipped COMMIT
			err = &unsentError{err}
		default:
			_ = t.conn.Conn().Close(ctx) // as pgx does after a COMMIT that failed
		}
	}()
	t.asked = true
	p.SendQueryParams(sql, args, nil, nil, nil)
	p.SendFlushRequest()
	p.SendQueryParams("commit", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return err
	}
	result, err := nextResult(p)
	if err != nil {
		return err
	}
	t.told = true
	if len(result.Rows) == 1 {
		if err := told(result.Rows[0]); err != nil {
			return err
		}
	}
	if result, err = nextResult(p); err != nil {
		return err
	}
	if result.CommandTag.String() == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	return nil
}

// nextResult reads the next result of a pipeline.
func nextResult(p *pgconn.Pipeline) (*pgconn.Result, error) {
	results, err := p.GetResults()
	if err != nil {
		return nil, err
	}
	reader, ok := results.(*pgconn.ResultReader)
	if !ok {
		return nil, fmt.Errorf("hasql: unexpected %T in a pipeline", results)
	}
	result := reader.Read()
	return result, result.Err
}

// scanText reads numbers in text form.
func scanText(values [][]byte, dest []any) error {
	if len(values) != len(dest) {
		return fmt.Errorf("hasql: %d columns where %d were expected", len(values), len(dest))
	}
	for i, v := range values {
		if _, err := fmt.Sscan(string(v), dest[i]); err != nil {
			return err
		}
	}
	return nil
}
