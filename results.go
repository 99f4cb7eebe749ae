package hasql

import (
	"cmp"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
)

// statement is a query, and the route on which it may run again.
type statement struct {
	route *Route
	ctx   context.Context
	sql   string
	args  []any
}

// runAgain reports whether to run the query once more after it ended with err.
func (s *statement) runAgain(from origin, err error) bool {
	return repeatable(s.sql, s.args) && s.route.awaitShutdownProof(s.ctx, from, err)
}

// routedRows own their connection until they are closed.
type routedRows struct {
	pgx.Rows
	statement
	conn      *pgxpool.Conn // nil once it is released
	atLending *Snapshot     // the snapshot at the time when the connection was lent
	lentAs    origin        // set when the rows end with an error
	// unreplicated is a NotReplicatedError of rows that otherwise ended well.
	unreplicated error
	simply       bool // whether the query was sent in the simple protocol
	noRetry      bool // the query must not run again: the caller has seen a row, or has closed the rows
}

// open runs the query.
func (r *routedRows) open() error {
	for {
		conn, err := r.route.Acquire(r.ctx)
		if err != nil {
			return err
		}
		r.atLending = r.route.cluster.snapshot()
		nodepool.ExpectCommit(conn.Conn())
		rs, err := conn.Query(r.ctx, r.sql, r.args...)
		if err == nil {
			r.Rows, r.conn, r.simply, r.noRetry = rs, conn, sentSimply(conn, r.args), false
			return nil
		}
		from := r.route.originOf(conn, r.atLending)
		conn.Release()
		if !r.runAgain(from, err) {
			return err
		}
	}
}

func (r *routedRows) Close() {
	r.noRetry = true
	r.end()
}

// end reads the remaining rows and releases the connection.
func (r *routedRows) end() {
	r.Rows.Close()
	if r.conn == nil {
		return
	}
	if r.Rows.Err() != nil {
		r.lentAs = r.route.originOf(r.conn, r.atLending)
	} else {
		r.unreplicated = replicated(r.conn)
	}
	r.conn.Release()
	r.conn = nil
}

// Err returns no end of the connection if the server confirmed the statement before it.
func (r *routedRows) Err() error {
	if err := r.Rows.Err(); err != nil && !confirmed(r.sql, r.args, r.simply, r.CommandTag(), err) {
		return err
	}
	return r.unreplicated
}

// Next goes on with the next row. If the query ended before its first row and may run again, Next runs it again.
func (r *routedRows) Next() bool {
	for !r.Rows.Next() {
		r.end()
		if r.noRetry || !r.repeat() {
			r.noRetry = true
			return false
		}
	}
	r.noRetry = true
	return true
}

// repeat runs the query of rows that have ended once more, if that is needed and safe. It reports whether there are new rows
// to read.
func (r *routedRows) repeat() bool {
	err := r.Err()
	if err == nil || r.CommandTag() != (pgconn.CommandTag{}) || !r.runAgain(r.lentAs, err) {
		return false
	}
	if err := r.open(); err != nil {
		r.Rows = failedRows{err: err}
		return false
	}
	return true
}

func (r *routedRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *routedRows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// routedRow is the first row of routedRows.
type routedRow routedRows

func (r *routedRow) Scan(dest ...any) error {
	rows := (*routedRows)(r)
	defer rows.Close() // also if a Scanner of the user panics
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok { // as in pgx: they would be gone once the rows are closed
			return errors.New("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	for {
		if !rows.Next() {
			return cmp.Or(rows.Err(), pgx.ErrNoRows)
		}
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		rows.end()
		// A server that stops may undo the statement after it has sent the row. Then the next try overwrites the scanned values.
		if err := rows.Err(); err == nil || !rows.repeat() {
			return rows.Err()
		}
	}
}

// batchResults own their connection, unless the batch began a transaction: then the transaction owns it.
type batchResults struct {
	pgx.BatchResults
	conn *pgxpool.Conn // nil once it is released
	tx   *tx
}

func (b *batchResults) Close() error {
	if b.conn == nil {
		return b.BatchResults.Close()
	}
	conn := b.conn
	b.conn = nil // a second Close finds no connection to ask
	defer conn.Release()
	if err := b.BatchResults.Close(); err != nil {
		return err
	}
	return replicated(conn)
}

func (b *batchResults) Tx() pgx.Tx {
	if b.tx == nil {
		return nil
	}
	return b.tx
}

// failedRows is what Query returns together with an error: rows in an error state, as pgx does.
type failedRows struct {
	pgx.Rows
	err error
}

func (failedRows) Close()                                       {}
func (f failedRows) Err() error                                 { return f.err }
func (failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (failedRows) Next() bool                                   { return false }
func (f failedRows) Scan(...any) error                          { return f.err }
func (f failedRows) Values() ([]any, error)                     { return nil, f.err }
func (failedRows) RawValues() [][]byte                          { return nil }
func (failedRows) Conn() *pgx.Conn                              { return nil }
func (failedRows) TypeMap() *pgtype.Map                         { return nil }

type failedRow struct{ err error }

func (f failedRow) Scan(...any) error { return f.err }
