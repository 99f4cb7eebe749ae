package ecosystem

import (
	"context"
	_ "embed"
	"testing"

	"github.com/pghasql/hasql/examples/ecosystem/orders"
)

//go:embed orders/schema.sql
var sqlcSchema string

// What sqlc generates for pgx takes a DBTX. A route is one, and so is the pgx.Tx of a route's Begin.
func TestSqlc(t *testing.T) {
	pool := open(t)
	writes := orders.New(pool.Master())

	_, err := pool.Master().Exec(t.Context(), sqlcSchema)
	must(t, err)
	throughCrash(t, "sqlc_orders", func(ctx context.Context, number int64) error {
		return writes.CreateOrder(ctx, orders.CreateOrderParams{Number: number, Item: "shirt"})
	})

	first, err := writes.FirstOrder(t.Context())
	must(t, err)
	if first != (orders.SqlcOrder{Number: 1, Item: "shirt"}) {
		t.Error(first)
	}

	tx, err := pool.Master().Begin(t.Context())
	must(t, err)
	must(t, writes.WithTx(tx).CreateOrder(t.Context(), orders.CreateOrderParams{Number: 0, Item: "hat"}))
	must(t, tx.Rollback(t.Context()))
	if again, err := writes.FirstOrder(t.Context()); err != nil || again != first {
		t.Error(again, err)
	}
}
