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

// again reports whether to ask once more after err, which ended the query on a connection to node.
func (s *statement) again(node *nodePool, err error) bool {
	return repeatable(s.sql, s.args) && s.route.moved(s.ctx, node, err)
}

// rows own their connection until they are closed.
type rows struct {
	pgx.Rows
	statement
	conn  *pgxpool.Conn
	final bool // not to be asked for again: a row was seen, or they were closed
}

// open asks for the rows.
func (r *rows) open() error {
	for {
		conn, err := r.route.Acquire(r.ctx)
		if err != nil {
			return err
		}
		rs, err := conn.Query(r.ctx, r.sql, r.args...)
		if err == nil {
			r.Rows, r.conn, r.final = rs, conn, false
			return nil
		}
		node := poolOf(conn)
		conn.Release()
		if !r.again(node, err) {
			return err
		}
	}
}

func (r *rows) Close() {
	r.final = true
	r.Rows.Close()
	r.conn.Release()
}

func (r *rows) Next() bool {
	for !r.Rows.Next() {
		var node *nodePool
		err := r.Rows.Err()
		if !r.final && err != nil && r.Rows.CommandTag() == (pgconn.CommandTag{}) {
			node = poolOf(r.conn)
		}
		r.Close()
		if node == nil || !r.again(node, err) {
			return false
		}
		if err := r.open(); err != nil {
			r.Rows = failedRows{err: err}
			return false
		}
	}
	r.final = true
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
	if !rows.Next() {
		return cmp.Or(rows.Err(), pgx.ErrNoRows)
	}
	if err := rows.Scan(dest...); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
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
