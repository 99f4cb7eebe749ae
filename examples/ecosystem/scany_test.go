package ecosystem

import (
	"context"
	"testing"

	"github.com/georgysavva/scany/v2/pgxscan"
)

type scanyOrder struct {
	Number int64
	Item   string
}

// scany's pgxscan takes whatever has pgx's Query. A route has it.
func TestScany(t *testing.T) {
	pool := open(t)
	_, err := pool.Master().Exec(t.Context(), `create table scany_orders (number bigint, item text)`)
	must(t, err)
	throughCrash(t, "scany_orders", func(ctx context.Context, number int64) error {
		var written scanyOrder
		return pgxscan.Get(ctx, pool.Master(), &written, `insert into scany_orders values ($1, 'shirt') returning *`, number)
	})

	var first []scanyOrder
	must(t, pgxscan.Select(t.Context(), pool.Master(), &first, `select * from scany_orders order by number limit 2`))
	if len(first) != 2 || first[0] != (scanyOrder{1, "shirt"}) {
		t.Error(first)
	}
}
