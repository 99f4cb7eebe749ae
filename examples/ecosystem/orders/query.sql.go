package orders

import (
	"context"
)

const createOrder = `-- name: CreateOrder :exec
insert into sqlc_orders (number, item) values ($1, $2)
`

type CreateOrderParams struct {
	Number int64
	Item   string
}

func (q *Queries) CreateOrder(ctx context.Context, arg CreateOrderParams) error {
	_, err := q.db.Exec(ctx, createOrder, arg.Number, arg.Item)
	return err
}

const firstOrder = `-- name: FirstOrder :one
select number, item from sqlc_orders order by number limit 1
`

func (q *Queries) FirstOrder(ctx context.Context) (SqlcOrder, error) {
	row := q.db.QueryRow(ctx, firstOrder)
	var i SqlcOrder
	err := row.Scan(&i.Number, &i.Item)
	return i, err
}
