package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
)

// product is a product in all its sizes and colours.
type product struct {
	ID    int64  `json:"id"`
	Brand string `json:"brand"`
	Name  string `json:"name"`
	SKUs  []sku  `json:"skus"`
}

// sku is one size and colour of a product.
type sku struct {
	ID     int64  `json:"id"`
	Size   string `json:"size"`
	Colour string `json:"colour"`
	Stock  int    `json:"stock"`
}

// queries are the queries of the shop. They run on a route to the master, on a route to the replicas, or in a transaction.
// sqlc would generate similar code.
type queries struct{ db db }

type db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const selectProducts = `
select p.id, b.name as brand, p.name,
	coalesce(json_agg(json_build_object('id', s.id, 'size', s.size, 'colour', s.colour, 'stock', s.stock) order by s.id)
		filter (where s.id is not null), '[]') as skus
from products p join brands b on b.id = p.brand_id left join skus s on s.product_id = p.id
where `

// products returns the products of a brand, or all products if brand is "".
func (q queries) products(ctx context.Context, brand string) ([]product, error) {
	rows, _ := q.db.Query(ctx, selectProducts+`$1 in ('', b.name) group by p.id, b.name order by p.id limit 100`, brand)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[product])
}

// product returns the product with an id, or pgx.ErrNoRows.
func (q queries) product(ctx context.Context, id int64) (product, error) {
	rows, _ := q.db.Query(ctx, selectProducts+`p.id = $1 group by p.id, b.name`, id)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[product])
}

// addProduct inserts a product, and its brand if that is new.
func (q queries) addProduct(ctx context.Context, p product) (id int64, err error) {
	const insertProduct = `
with brand as (
	insert into brands (name) values ($1) on conflict (name) do update set name = excluded.name returning id
)
insert into products (brand_id, name) select id, $2 from brand returning id`
	if err := q.db.QueryRow(ctx, insertProduct, p.Brand, p.Name).Scan(&id); err != nil {
		return 0, err
	}
	for _, s := range p.SKUs {
		const insertSKU = `insert into skus (product_id, size, colour, stock) values ($1, $2, $3, $4)`
		if _, err := q.db.Exec(ctx, insertSKU, id, s.Size, s.Colour, s.Stock); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// sell takes pieces of a SKU out of stock. It returns pgx.ErrNoRows if there are too few.
func (q queries) sell(ctx context.Context, id int64, pieces int) (left int, err error) {
	const sell = `update skus set stock = stock - $2 where id = $1 and stock >= $2 returning stock`
	err = q.db.QueryRow(ctx, sell, id, pieces).Scan(&left)
	return left, err
}

// written returns the position of the master in its WAL. A replica that has replayed this position shows everything that was
// committed before.
func (q queries) written(ctx context.Context) (hasql.LSN, error) {
	var lsn string
	if err := q.db.QueryRow(ctx, `select pg_current_wal_flush_lsn()::text`).Scan(&lsn); err != nil {
		return 0, err
	}
	return hasql.ParseLSN(lsn)
}
