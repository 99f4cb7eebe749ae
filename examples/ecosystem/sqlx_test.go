package ecosystem

import (
	"context"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/pghasql/hasql/stdlib"
)

type sqlxOrder struct {
	Number int64  `db:"number"`
	Item   string `db:"item"`
}

// sqlx takes a *sql.DB. The driver's name "pgx" tells it to write placeholders as $1.
func TestSqlx(t *testing.T) {
	pool := open(t)
	db := sqlx.NewDb(stdlib.OpenDB(pool.Master()), "pgx")
	defer db.Close()

	_, err := db.ExecContext(t.Context(), `create table sqlx_orders (number bigint, item text)`)
	must(t, err)
	throughCrash(t, "sqlx_orders", func(ctx context.Context, number int64) error {
		_, err := db.NamedExecContext(ctx, `insert into sqlx_orders values (:number, :item)`, sqlxOrder{number, "shirt"})
		return err
	})

	var first sqlxOrder
	must(t, db.GetContext(t.Context(), &first, `select * from sqlx_orders order by number limit 1`))
	if first != (sqlxOrder{1, "shirt"}) {
		t.Error(first)
	}
}
