package demo

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// auditDelay leaves a new master alone for a moment before it is asked for a long list of writes.
	auditDelay = 500 * time.Millisecond
	// auditLimit is the patience with one such question.
	auditLimit = 10 * time.Second

	// pruneInterval is the time between two removals of old writes from the table, and prunedAfter how many later writes
	// of the same writer make one old: more than are looked for.
	pruneInterval = 10 * time.Second
	prunedAfter   = 2 * keptWrites
)

const missingSQL = `select id from unnest($1::bigint[]) as acknowledged(id)
	where not exists (select from hasql_demo_ledger l where l.id = acknowledged.id)`

// audit looks for acknowledged writes that the present master has not, and books them as lost.
func (w *workload) audit(ctx context.Context) error {
	ids, _ := w.book.owed()
	lost, err := w.missing(ctx, ids)
	if err == nil {
		w.book.lost(lost)
	}
	return err
}

// missing returns those of ids that the present master has not.
func (w *workload) missing(ctx context.Context, ids []int64) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	rows, err := w.pm.Master().Query(ctx, missingSQL, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// auditAfterFailovers audits whenever the writes have moved, until ctx ends. An audit that fails is due again.
func (w *workload) auditAfterFailovers(ctx context.Context) {
	for {
		select {
		case <-w.auditDue:
		case <-ctx.Done():
			return
		}
		if sleep(ctx, auditDelay) == nil && w.audit(ctx) != nil {
			offer(w.auditDue, struct{}{})
		}
	}
}

// prune keeps the table small, until ctx ends. What fails is done by the next time.
func (w *workload) prune(ctx context.Context) {
	for sleep(ctx, pruneInterval) == nil {
		for i := range writers {
			oldest := idOf(i, w.sequences[i].Load()-prunedAfter)
			limited, cancel := context.WithTimeout(ctx, auditLimit)
			_, _ = w.pm.Master().Exec(limited, "delete from hasql_demo_ledger where id between $1 and $2", idOf(i, 0), oldest)
			cancel()
		}
	}
}
