package hasql

import (
	"context"
	"iter"

	"github.com/jackc/pgx/v5"
)

// Rows runs a query on a route and yields what toRow makes of each row, such as pgx.RowTo or pgx.RowToStructByName:
//
//	for user, err := range hasql.Rows(ctx, pool.Replica(), pgx.RowToStructByName[User], "select * from users where city = $1", city) {
//		if err != nil {
//			return err
//		}
//		…
//	}
//
// The query runs when a loop over the sequence begins, as [Route.Query] runs it, and anew with each loop. Rows are read from the
// connection one by one, so a result of any size takes the memory of one row. An error is the last that is yielded. The end of
// the loop, also by break, closes the rows and releases the connection.
func Rows[T any](ctx context.Context, route *Route, toRow pgx.RowToFunc[T], sql string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := route.Query(ctx, sql, args...)
		if err != nil {
			yield(none, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			row, err := toRow(rows)
			if err != nil {
				yield(none, err)
				return
			}
			if !yield(row, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(none, err)
		}
	}
}
