package demo

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// auditDelay is the time between a failover and the audit, so that the audit's long query does not slow the new master down.
	auditDelay = 500 * time.Millisecond
	// auditLimit is the time limit of one query of the audit.
	auditLimit = 10 * time.Second

	// pruneInterval is the time between two removals of old writes from the table. prunedAfter is how many writes of each
	// writer stay: more than an audit looks for.
	pruneInterval = 10 * time.Second
	prunedAfter   = 2 * keptWrites
)

const missingSQL = `select id from unnest($1::bigint[]) as acknowledged(id)
	where not exists (select from hasql_demo_ledger l where l.id = acknowledged.id)`

// audit looks for acknowledged writes that the current master does not have, and counts them as lost.
func (w *workload) audit(ctx context.Context) error {
	ids, _ := w.book.owed()
	lost, err := w.missing(ctx, ids)
	if err == nil {
		w.book.lost(lost)
	}
	return err
}

// missing returns those of ids that the current master does not have.
func (w *workload) missing(ctx context.Context, ids []int64) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	rows, err := w.pm.Master().Query(ctx, missingSQL, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// auditAfterFailovers runs an audit after each failover, until ctx ends. It repeats an audit that failed.
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

// prune removes old writes from the table, until ctx ends. If a removal fails, the next one does its work.
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
