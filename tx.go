package hasql

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/random"
)

// Begin starts a transaction. See [Route.BeginTx].
func (r *Route) Begin(ctx context.Context) (pgx.Tx, error) {
	return r.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx starts a transaction as [pgxpool.Pool.BeginTx] does. ctx governs the start alone: the transaction must be
// ended by Commit or Rollback, which release the connection.
//
// If the connection ends before the transaction has begun, another one is taken, within AcquireTimeout as a whole: nothing
// was done yet. Only options with a BeginQuery are not tried again, as that may do anything.
func (r *Route) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	started, limit := time.Now(), r.criteria.timeout
	waiting := ctx // until there is a connection; the first Acquire limits itself
	for round := 0; ; round++ {
		if round == 1 && limit > 0 {
			var cancel context.CancelFunc
			waiting, cancel = context.WithDeadlineCause(ctx, started.Add(limit), errAcquireTimeout)
			defer cancel()
		}
		conn, err := r.Acquire(waiting)
		if err != nil {
			return nil, err
		}
		inner, err := conn.BeginTx(ctx, options)
		if err == nil {
			return newTx(inner, conn), nil
		}
		conn.Release()
		if !nodepool.IsEnd(err) || options.BeginQuery != "" {
			return nil, err
		}
		select {
		case <-time.After(random.Jittered(backedOff(nodepool.MinDialBackoff, round-1, nodepool.MaxDialBackoff))): // not at once where every connection ends so
		case <-waiting.Done():
			return nil, err
		}
	}
}

// tx is a transaction that owns its connection.
type tx struct {
	pgx.Tx
	conn *pgxpool.Conn
}

func newTx(inner pgx.Tx, conn *pgxpool.Conn) *tx {
	nodepool.ExpectCommit(conn.Conn())
	return &tx{inner, conn}
}

// CopyFrom copies rows into a table as [pgx.Tx.CopyFrom] does.
func (t *tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	n, err := t.Tx.CopyFrom(ctx, table, columns, source)
	return n, nodepool.OfEnd(err)
}

// Commit succeeds also if the server confirmed it and then sent an error, of which alone pgx tells.
func (t *tx) Commit(ctx context.Context) error {
	defer t.conn.Release()
	err := t.Tx.Commit(ctx)
	if errors.Is(err, pgx.ErrTxClosed) { // a second call: the connection is another one's
		return err
	}
	if err == nil || nodepool.Committed(t.conn.Conn()) {
		return replicated(t.conn)
	}
	return err
}

func (t *tx) Rollback(ctx context.Context) error {
	defer t.conn.Release()
	return t.Tx.Rollback(ctx)
}
