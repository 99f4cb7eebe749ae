package hasql

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

// defaultMaxAttempts takes a transaction through any conflict that is not there for good: with the pauses about a second.
const defaultMaxAttempts = 10

// InTx runs f in a transaction and commits it. It returns nil if the transaction was applied, once:
//
//	err := pool.InTx(ctx, hasql.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
//		_, err := tx.Exec(ctx, "update accounts set balance = balance - $1 where id = $2", amount, id)
//		return err
//	})
//
// f runs again, in a new transaction, after what did not take effect for no fault of its own: a serialization failure (40001), a
// deadlock (40P01), the end of the connection before COMMIT was sent, a master that has become read-only (25006). It does not run
// again if the server ended its session because it took too long (25P03, 25P04). So what f does beside the transaction may happen
// several times; [Attempt] tells which time it is. Between two attempts InTx waits, longer and longer, 500 ms at most. It never
// begins another attempt once ctx has ended.
//
// If COMMIT was sent and its answer did not come, InTx finds out what became of the transaction, from whoever is the master by
// then. For that each transaction asks for its id in the message that begins it. InTx waits for a master as an acquire does, and
// goes on for up to a second after the end of ctx. What was not applied runs again. What cannot be told is a
// [*CommitUnknownError], whose ID can be stored and resolved later. See docs/commits.md for what can be told, and when.
//
// Any error but that and a [*NotReplicatedError] means that nothing was applied: [Outcome] tells it. f's own error may be wrapped:
// compare with errors.Is. f must use tx, and nothing of tx after its return; tx.Begin makes a savepoint. A panic of f rolls back and
// goes on. f must not end its transaction: not by the methods Commit and Rollback, and not by a statement (COMMIT, ROLLBACK, PREPARE
// TRANSACTION). After such a statement nobody knows what was committed, and the error's Outcome is Unknown; COMMIT AND CHAIN goes
// unseen. In REPEATABLE READ and SERIALIZABLE name the level in options, and not by SET TRANSACTION, which must come before what
// tells the outcome.
func (r *Route) InTx(ctx context.Context, options TxOptions, f func(ctx context.Context, tx pgx.Tx) error) error {
	limit := options.MaxAttempts
	if limit == 0 {
		limit = defaultMaxAttempts
	}
	for attempt := 1; ; attempt++ {
		t := transaction{route: r, commits: r.commits(), options: &options, way: r.wayOf(&options)}
		again, err := t.run(context.WithValue(ctx, attemptKey{}, attempt), f)
		if err == nil || !again || attempt == limit || !retryPause(ctx, attempt) {
			return err
		}
	}
}

// InTx runs f in a transaction on the master. See [Route.InTx].
func (pm *PoolManager) InTx(ctx context.Context, options TxOptions, f func(ctx context.Context, tx pgx.Tx) error) error {
	return pm.routes[TargetMaster].InTx(ctx, options, f)
}

// ResolveCommit finds out what became of the transaction of a [CommitUnknownError]. It waits for a master until ctx ends, or
// AcquireTimeout. While it is still unknown the error is a *CommitUnknownError. Behind a marker it always becomes known once there is
// a master; without one less often than where the transaction ran, as this process has not seen what happened since.
func (pm *PoolManager) ResolveCommit(ctx context.Context, id CommitID) (applied bool, err error) {
	lost, err := id.parse()
	if err != nil {
		return false, err
	}
	return pm.routes[TargetMaster].commits().resolve(ctx, lost, lost.trace.Node)
}

type attemptKey struct{}

// Attempt returns which call of the function of [Route.InTx] this is, by the context that it got: 1 for the first. It is 0
// elsewhere.
func Attempt(ctx context.Context) int {
	n, _ := ctx.Value(attemptKey{}).(int)
	return n
}

// retryPause waits before the next attempt. It reports false if ctx ended before.
func retryPause(ctx context.Context, attempt int) bool {
	const first, most = 5 * time.Millisecond, 500 * time.Millisecond
	longest := min(most, time.Duration(float64(first)*math.Pow(1.5, float64(min(attempt-1, 20)))))
	timer := time.NewTimer(time.Duration(random.Fraction() * float64(longest)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// run reports whether to run again what failed with err.
func (t *transaction) run(ctx context.Context, f func(context.Context, pgx.Tx) error) (again bool, err error) {
	if t.conn, err = t.route.Acquire(ctx); err != nil {
		return false, err
	}
	defer t.release()
	if err := t.begin(ctx); err != nil {
		t.failed = true
		return t.undone(err)
	}
	if err := t.call(ctx, f); t.strayed {
		return false, err
	} else if err != nil {
		return t.undone(err)
	}
	return t.commit(ctx)
}

// wayOf chooses the way. What needs a snapshot must not come with BEGIN where the snapshot lasts: there the first statement of the
// transaction is to fix it. A mark comes with COMMIT only there: see askMark.
func (r *Route) wayOf(o *TxOptions) way {
	late := o.IsoLevel == pgx.RepeatableRead || o.IsoLevel == pgx.Serializable || o.IsoLevel == "" && r.cluster.tracing.lateByDefault.Load()
	switch {
	case o.readOnly() || o.CommitQuery != "":
		return untraced
	case o.Marker != "" && late:
		return markedLate
	case o.Marker != "":
		return marked
	case o.NoTrace || !r.config.TraceCommits || o.BeginQuery != "" || r.criteria.target != TargetMaster:
		return untraced
	case late, o.MayOnlyRead:
		return tracedLate
	}
	return traced
}

// begin begins the transaction, and has it traced.
func (t *transaction) begin(ctx context.Context) (err error) {
	t.lost.verify = t.options.Verify
	t.locate()
	if t.way == traced && t.commits.cluster.tracing.untraceable(t.lost.trace.Node) {
		t.way = untraced
	}
	switch t.way {
	case traced:
		err = t.beginTraced(ctx)
	case marked:
		err = t.beginMarked(ctx)
	default:
		t.inner, err = t.conn.BeginTx(ctx, t.options.TxOptions)
	}
	// A transaction that began during recovery can't write, even if that ends. The server tells of its end with each answer.
	t.lost.nothing = !t.pooled && t.conn.Conn().PgConn().ParameterStatus("in_hot_standby") == "on"
	return err
}

// release gives the connection back, and the place of the mark.
func (t *transaction) release() {
	if t.conn != nil {
		t.settled = t.over()
		t.conn.Release()
		t.conn = nil
	}
	if t.settled {
		t.commits.cluster.marks.free(t.lost.mark)
	}
}

// call runs f, and rolls back unless it returns nil.
func (t *transaction) call(ctx context.Context, f func(context.Context, pgx.Tx) error) (err error) {
	tx := &ownedTx{Tx: t.inner}
	returned := false
	defer func() {
		if !returned || err != nil {
			t.failed = t.conn.Conn().PgConn().TxStatus() == 'E'
			t.rollBack(ctx)
		}
		tx.Tx = closedTx
	}()
	err = f(ctx, tx)
	returned = true
	switch {
	case err == nil && tx.over:
		err = pgx.ErrTxClosed
	case !tx.over && t.over():
		t.strayed, err = true, &strayedError{err}
	}
	return err
}

// undone is the end of an attempt that did not come to its COMMIT: nothing was applied.
func (t *transaction) undone(err error) (again bool, _ error) {
	again = t.repeats(err)
	switch Outcome(err) {
	case NotApplied:
		return again, err
	case Refused:
		if !again {
			return false, err
		}
	}
	if again || t.ended(err) && nodepool.IsEnd(err) {
		return again, &NotAppliedError{Err: err}
	}
	return false, &rolledBackError{err}
}

// repeats reports whether a transaction that was not applied is worth another attempt after err. It must be an error of this very
// transaction: of one of another database, or of a statement beside it, nobody knows here.
func (t *transaction) repeats(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case t.ended(err):
		return !ok && (nodepool.IsEnd(err) || pgconn.SafeToRetry(err)) || ok && repeatsAfter(pgErr.Code)
	case !ok || !t.failed:
		return false
	case pgErr.Code == pgerr.ReadOnlySQLTransaction:
		return !t.options.readOnly() && t.route.criteria.target != TargetReplica
	}
	return repeatsAfter(pgErr.Code)
}

// repeatsAfter reports whether a SQLSTATE says that a transaction failed for no fault of its own.
func repeatsAfter(code string) bool {
	switch code {
	case pgerr.SerializationFailure, pgerr.DeadlockDetected, pgerr.ReadOnlySQLTransaction:
		return true
	}
	return pgerr.IsServerStop(code) || pgerr.IsConnectionFailure(code)
}

// commit sends COMMIT, and finds out what became of it if the answer does not come.
func (t *transaction) commit(ctx context.Context) (again bool, err error) {
	written, known := nodepool.Written(t.conn.Conn())
	nodepool.ExpectCommit(t.conn.Conn())
	err = t.sendCommit(ctx)
	switch {
	case err == nil, nodepool.Committed(t.conn.Conn()):
		return false, replicated(t.conn)
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return false, err
	case t.answered(err):
		t.failed = true
		return t.undone(err)
	case pgerr.Is[*unsentError](err):
		t.failed = true
		t.rollBack(ctx)
		return t.undone(err)
	case t.preceded(err), known && t.unsent(written):
		return t.ended(err) && !tookTooLong(err), &NotAppliedError{Err: err}
	}
	return t.findOut(ctx, err)
}

// sendCommit sends COMMIT, with what tells the outcome if that is due now. A transaction that has failed gets none: it is rolled back.
func (t *transaction) sendCommit(ctx context.Context) error {
	if t.conn.Conn().PgConn().TxStatus() == 'T' {
		switch {
		case t.way == markedLate:
			return t.commitMarked(ctx)
		case t.way == tracedLate, t.way == traced && t.lost.trace.LSN == 0:
			return t.commitTraced(ctx)
		}
	}
	return t.inner.Commit(ctx)
}

// preceded reports whether the server ended the session before it came to COMMIT: it was idle for too long, or has sent its last word
// instead of what tells the outcome, which comes before that. A pooler may say such a word in its own name.
func (t *transaction) preceded(err error) bool {
	return !t.pooled && (pgerr.IsFatal(err, pgerr.IdleInTransactionTimeout) || t.asked && !t.told && pgerr.IsFatal(err, pgerr.AdminShutdown))
}

// unsent reports whether nothing was written since so much was.
func (t *transaction) unsent(written uint64) bool {
	now, _ := nodepool.Written(t.conn.Conn())
	return now == written
}

// answered reports whether the server has refused COMMIT: the session goes on. What a pooler says in its own name is no answer.
func (t *transaction) answered(err error) bool {
	verdict := Outcome(err)
	return pgerr.Is[*pgconn.PgError](err) && (verdict == Refused || verdict == NotApplied) && t.over()
}

// findOut is for a COMMIT that was sent and not answered.
func (t *transaction) findOut(ctx context.Context, err error) (again bool, _ error) {
	t.conn.Release()
	t.conn = nil
	if t.options.readOnly() || t.lost.nothing {
		return !tookTooLong(err), &NotAppliedError{Err: err}
	}
	resolving, cancel := t.commits.resolving(ctx)
	defer cancel()
	verdict, why := t.commits.findOut(resolving, &t.lost)
	t.settled = verdict == evidence.Applied || verdict == evidence.NotApplied
	switch verdict {
	case evidence.Applied:
		return false, nil
	case evidence.NotApplied:
		return !tookTooLong(err), &NotAppliedError{Err: err}
	}
	return false, &CommitUnknownError{ID: t.lost.id(), Node: t.lost.trace.Node, Reason: why, Err: err, commits: t.commits, lost: t.lost}
}

// tookTooLong reports whether the server ended the session because its transaction took too long, as it most likely does again.
func tookTooLong(err error) bool {
	return pgerr.IsFatal(err, pgerr.IdleInTransactionTimeout, pgerr.TransactionTimeout)
}

// ownedTx is the transaction as the function of InTx has it: InTx ends it.
type ownedTx struct {
	pgx.Tx
	over bool
}

var errCommitInside = errors.New("hasql: InTx commits when its function returns nil, and rolls back when it returns an error")

// Commit is refused: InTx must see what becomes of it.
func (*ownedTx) Commit(context.Context) error { return errCommitInside }

// Rollback ends the transaction. InTx returns pgx.ErrTxClosed then, as pgx.BeginFunc does, unless the function returns an error.
func (t *ownedTx) Rollback(ctx context.Context) error {
	t.over = true
	return t.Tx.Rollback(ctx)
}

// CopyFrom copies rows into a table as [pgx.Tx.CopyFrom] does.
func (t *ownedTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	n, err := t.Tx.CopyFrom(ctx, table, columns, source)
	return n, nodepool.OfEnd(err)
}

// closedTx is what is left to a function that kept its transaction.
var closedTx = func() pgx.Tx {
	b := new(pgx.Batch)
	b.BeginTx(pgx.TxOptions{})
	return pgx.FailedBatchResults(b, pgx.ErrTxClosed).Tx()
}()
