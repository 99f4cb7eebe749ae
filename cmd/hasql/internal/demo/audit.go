package demo

import (
	"context"
	"time"

	"github.com/pghasql/hasql/internal/workload"
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

// audit looks for acknowledged writes that the current master does not have, and counts them as lost.
func (a *application) audit(ctx context.Context) error {
	ids, _ := a.recorder.expected()
	missing, err := a.missing(ctx, ids)
	if err == nil {
		a.recorder.missing(missing)
	}
	return err
}

// missing returns those of ids that the current master does not have.
func (a *application) missing(ctx context.Context, ids []int64) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	return workload.Missing(ctx, a.pm.Master(), "hasql_demo_ledger", ids)
}

// auditAfterFailovers runs an audit after each failover, until ctx ends. It repeats an audit that failed.
func (a *application) auditAfterFailovers(ctx context.Context) {
	for {
		select {
		case <-a.auditDue:
		case <-ctx.Done():
			return
		}
		if workload.Sleep(ctx, auditDelay) == nil && a.audit(ctx) != nil {
			offer(a.auditDue, struct{}{})
		}
	}
}

// prune removes old writes from the table, until ctx ends. If a removal fails, the next one does its work.
func (a *application) prune(ctx context.Context) {
	for workload.Sleep(ctx, pruneInterval) == nil {
		for i := range writers {
			oldest := idOf(i, a.sequences[i].Load()-prunedAfter)
			limited, cancel := context.WithTimeout(ctx, auditLimit)
			_, _ = a.pm.Master().Exec(limited, "delete from hasql_demo_ledger where id between $1 and $2", idOf(i, 0), oldest)
			cancel()
		}
	}
}
