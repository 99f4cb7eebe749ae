package hasql

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
)

// Ping acquires a connection and sends an empty statement over it.
func (r *Route) Ping(ctx context.Context) error {
	conn, err := r.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return conn.Ping(ctx)
}

// AcquireFunc calls f with a connection and releases the connection afterwards. ctx limits only the acquire.
func (r *Route) AcquireFunc(ctx context.Context, f func(*pgxpool.Conn) error) error {
	conn, err := r.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return f(conn)
}

// Exec runs a statement as [pgxpool.Pool.Exec] does. If a server that shuts down has undone the statement, Exec runs it
// again on the node that fits then, which may be the same one after a restart; see the package documentation.
func (r *Route) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	for {
		tag, from, err := r.exec(ctx, sql, args)
		switch {
		case err == nil:
			return tag, nil
		case tag != (pgconn.CommandTag{}) || !repeatable(sql, args) || !r.awaitShutdownProof(ctx, from, err):
			return tag, err
		}
	}
}

func (r *Route) exec(ctx context.Context, sql string, args []any) (tag pgconn.CommandTag, from origin, err error) {
	conn, err := r.Acquire(ctx)
	if err != nil {
		return tag, from, err
	}
	defer conn.Release()
	lent := r.cluster.snapshot()
	nodepool.ExpectCommit(conn.Conn())
	tag, err = conn.Exec(ctx, sql, args...)
	simply := len(args) == 0 || sentSimply(conn, args) // pgx prepares nothing without arguments
	if err != nil && !confirmed(sql, args, simply, tag, err) {
		return tag, r.originOf(conn, lent), err
	}
	return tag, nil, replicated(conn)
}

// Query runs a query as [pgxpool.Pool.Query] does. If the server shuts down before the first row, the query runs again as in
// [Route.Exec], so the arguments must not be modified before the first row was read. The connection is released when the
// rows are closed. Reading the rows to their end closes them.
func (r *Route) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rs := &routedRows{statement: statement{r, ctx, sql, args}}
	if err := rs.open(); err != nil {
		return failedRows{err: err}, err
	}
	return rs, nil
}

// QueryRow runs a query as [Route.Query] does. Scan releases the connection and returns any error.
func (r *Route) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rs := &routedRows{statement: statement{r, ctx, sql, args}}
	if err := rs.open(); err != nil {
		return failedRow{err}
	}
	return (*routedRow)(rs)
}

// SendBatch sends a batch as [pgxpool.Pool.SendBatch] does. The connection is released when the results are closed, or,
// if the batch begins a transaction, when that transaction ends.
func (r *Route) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	conn, err := r.Acquire(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	nodepool.ExpectCommit(conn.Conn())
	results := conn.SendBatch(ctx, b)
	if inner := results.Tx(); inner != nil {
		return &batchResults{BatchResults: results, tx: newTx(inner, conn)}
	}
	return &batchResults{BatchResults: results, conn: conn}
}

// CopyFrom copies rows into a table as [pgxpool.Pool.CopyFrom] does.
func (r *Route) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	conn, err := r.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	nodepool.ExpectCommit(conn.Conn())
	n, err := conn.CopyFrom(ctx, table, columns, source)
	if err == nil || n > 0 && cancelled(err) { // the number of rows comes with the tag, behind the commit
		err = replicated(conn)
	}
	return n, nodepool.OfEnd(err)
}
