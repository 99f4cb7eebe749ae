package hasql

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Begin starts a transaction. See [Route.BeginTx].
func (r *Route) Begin(ctx context.Context) (pgx.Tx, error) {
	return r.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx starts a transaction as [pgxpool.Pool.BeginTx] does. ctx governs the start alone: the transaction must be
// ended by Commit or Rollback, which release the connection.
func (r *Route) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	for {
		conn, err := r.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		inner, err := conn.BeginTx(ctx, options)
		if err == nil {
			return &tx{inner, conn}, nil
		}
		node := poolOf(conn)
		conn.Release()
		if !r.moved(ctx, node, err) {
			return nil, err
		}
	}
}

// tx is a transaction that owns its connection.
type tx struct {
	pgx.Tx
	conn *pgxpool.Conn
}

func (t *tx) Commit(ctx context.Context) error {
	defer t.conn.Release()
	return t.Tx.Commit(ctx)
}

func (t *tx) Rollback(ctx context.Context) error {
	defer t.conn.Release()
	return t.Tx.Rollback(ctx)
}
