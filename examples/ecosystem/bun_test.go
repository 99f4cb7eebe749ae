package ecosystem

import (
	"context"
	"testing"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/pghasql/hasql/stdlib"
)

type bunOrder struct {
	ID     int64 `bun:",pk,autoincrement"`
	Number int64
	Item   string
}

// Bun takes a *sql.DB and its dialect.
func TestBun(t *testing.T) {
	pool := open(t)
	db := bun.NewDB(stdlib.OpenDB(pool.Master()), pgdialect.New())
	defer db.Close()

	_, err := db.NewCreateTable().Model((*bunOrder)(nil)).Exec(t.Context())
	must(t, err)
	throughCrash(t, "bun_orders", func(ctx context.Context, number int64) error {
		_, err := db.NewInsert().Model(&bunOrder{Number: number, Item: "shirt"}).Exec(ctx)
		return err
	})

	var first bunOrder
	must(t, db.NewSelect().Model(&first).Order("number").Limit(1).Scan(t.Context()))
	if first.Number != 1 || first.Item != "shirt" {
		t.Error(first)
	}
}
