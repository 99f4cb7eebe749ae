package hasql

import (
	"cmp"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// statement is a query, and where to ask it again.
type statement struct {
	route *Route
	ctx   context.Context
	sql   string
	args  []any
}

// again reports whether to ask once more after err, which ended the query.
func (s *statement) again(from origin, err error) bool {
	return repeatable(s.sql, s.args) && s.route.leaves(s.ctx, from, err)
}

// rows own their connection until they are closed.
type rows struct {
	pgx.Rows
	statement
	conn  *pgxpool.Conn // nil once it is released
	lent  *Snapshot     // when the connection was
	from  origin        // of rows that ended with an error
	final bool          // not to be asked for again: the caller has seen a row, or has closed them
}

// open asks for the rows.
func (r *rows) open() error {
	for {
		conn, err := r.route.Acquire(r.ctx)
		if err != nil {
			return err
		}
		r.lent = r.route.pm.Snapshot()
		rs, err := conn.Query(r.ctx, r.sql, r.args...)
		if err == nil {
			r.Rows, r.conn, r.final = rs, conn, false
			return nil
		}
		from := r.route.origin(conn, r.lent)
		conn.Release()
		if !r.again(from, err) {
			return err
		}
	}
}

func (r *rows) Close() {
	r.final = true
	r.end()
}

// end reads what is left, and releases the connection.
func (r *rows) end() {
	r.Rows.Close()
	if r.conn == nil {
		return
	}
	if r.Rows.Err() != nil {
		r.from = r.route.origin(r.conn, r.lent)
	}
	r.conn.Release()
	r.conn = nil
}

// Err is nil if the server confirmed the statement before the connection ended.
func (r *rows) Err() error {
	if err := r.Rows.Err(); err != nil && !confirmed(r.sql, r.args, r.CommandTag(), err) {
		return err
	}
	return nil
}

// Next goes on with the next row, of a second try if the first one came to nothing before there was a row.
func (r *rows) Next() bool {
	for !r.Rows.Next() {
		r.end()
		if r.final || !r.repeat() {
			r.final = true
			return false
		}
	}
	r.final = true
	return true
}

// repeat asks again for rows that have ended, if that is called for and safe. It reports whether it did.
func (r *rows) repeat() bool {
	err := r.Err()
	if err == nil || r.CommandTag() != (pgconn.CommandTag{}) || !r.again(r.from, err) {
		return false
	}
	if err := r.open(); err != nil {
		r.Rows = failedRows{err: err}
		return false
	}
	return true
}

func (r *rows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *rows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// row is the first of rows.
type row rows

func (r *row) Scan(dest ...any) error {
	rows := (*rows)(r)
	defer rows.Close() // also when a Scanner of the user's panics
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
		// A server that stops may undo the statement after it has sent the row. Then the next try overwrites what was scanned.
		if err := rows.Err(); err == nil || !rows.repeat() {
			return rows.Err()
		}
	}
}

// batchResults own their connection, unless the batch began a transaction: then that does.
type batchResults struct {
	pgx.BatchResults
	conn *pgxpool.Conn
	tx   *tx
}

func (b *batchResults) Close() error {
	if b.conn != nil {
		defer b.conn.Release()
	}
	return b.BatchResults.Close()
}

func (b *batchResults) Tx() pgx.Tx {
	if b.tx == nil {
		return nil
	}
	return b.tx
}

// failedRows is what Query returns beside an error: rows in an error state, as pgx does.
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
