package hasql

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

// TxOptions say how [Route.InTx] runs a transaction. The zero value is a good choice.
type TxOptions struct {
	pgx.TxOptions

	// MaxAttempts is how often the function may be called. The default, 0, is 10; a negative number is no limit but the end of
	// the context.
	MaxAttempts int

	// Marker is the name of a table as [CommitMarkerSQL] makes it, which the role may read and write. Each transaction then leaves
	// a mark there, so that its outcome can be told exactly after any failover, also behind a pooler and on products that lack
	// the functions of PostgreSQL that tell it otherwise. It costs one more update of one row. The default is none.
	Marker string

	// Verify is asked whether a transaction was applied where nothing else can tell, over a connection to the master of now. It is
	// called only once the transaction can't be applied any more if it was not before. It must not keep the connection.
	Verify func(ctx context.Context, conn *pgxpool.Conn) (applied bool, err error)

	// MayOnlyRead is for a transaction that often writes nothing, though AccessMode does not say so: it then costs no transaction
	// id and no flush. Its outcome is more often unknown, as what tells it is sent with COMMIT.
	MayOnlyRead bool

	// NoTrace sends nothing that tells the outcome. A COMMIT that is not answered is unknown then. [Config.TraceCommits] says so
	// for all transactions.
	NoTrace bool
}

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
// deadlock (40P01), the end of the connection before COMMIT was sent, a master that has become read-only (25006). So what f does
// beside the transaction may happen several times; [Attempt] tells which time it is. Between two attempts InTx waits, longer and
// longer, 500 ms at most. It never begins another attempt once ctx has ended.
//
// If COMMIT was sent and its answer did not come, InTx finds out what became of the transaction, from whoever is the master by
// then. For that each transaction asks for its id in the message that begins it. InTx waits for a master as an acquire does, and
// goes on for up to a second after the end of ctx. What was not applied runs again. What cannot be told is a
// [*CommitUnknownError], whose ID can be stored and resolved later. See docs/commits.md for what can be told, and when.
//
// Any error but a *CommitUnknownError and a [*NotReplicatedError] means that nothing was applied: [Outcome] tells it. f's own
// error may be wrapped: compare with errors.Is. f must use tx, not its methods Commit and Rollback, and nothing of tx after its
// return; tx.Begin makes a savepoint. A panic of f rolls back and goes on. In REPEATABLE READ and SERIALIZABLE name the level in
// options, and not by SET TRANSACTION, which must come before what tells the outcome.
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

// transaction is one attempt of InTx.
type transaction struct {
	route   *Route
	commits *commits
	options *TxOptions
	way     way
	conn    *pgxpool.Conn // nil once it is released
	inner   pgx.Tx
	failed  bool       // whether the server has refused a statement of it, or the connection has ended
	settled bool       // whether its session has ended for sure
	asked   bool       // whether what tells the outcome was sent with COMMIT
	told    bool       // whether that was answered
	pooled  bool       // whether there is a pooler before the server
	lost    lostCommit // what is known for the case that the answer to COMMIT does not come
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
	if err := t.call(ctx, f); err != nil {
		return t.undone(err)
	}
	return t.commit(ctx)
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
	if err == nil && tx.over {
		err = pgx.ErrTxClosed
	}
	return err
}

// rollBack ends the transaction, also if ctx has ended: the connection is still good.
func (t *transaction) rollBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.commits.config.CheckTimeout)
	defer cancel()
	_ = t.inner.Rollback(ctx) // what fails closes the connection
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
		return t.options.AccessMode != pgx.ReadOnly
	}
	return repeatsAfter(pgErr.Code)
}

// over reports whether the connection is outside of a transaction again, and good.
func (t *transaction) over() bool {
	pg := t.conn.Conn().PgConn()
	return !pg.IsClosed() && pg.TxStatus() == 'I'
}

// ended reports whether the connection has ended, and not because the caller's context did.
func (t *transaction) ended(err error) bool {
	if !t.conn.Conn().PgConn().IsClosed() {
		return false
	}
	return nodepool.IsEnd(err) || nodepool.HasEnded(t.conn.Conn())
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
	nodepool.ExpectReplication(t.conn.Conn())
	err = t.sendCommit(ctx)
	switch {
	case err == nil, nodepool.Committed(t.conn.Conn()) && nodepool.IsEnd(err):
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
		return t.ended(err), &NotAppliedError{Err: err}
	}
	return t.findOut(ctx, err)
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
	if t.options.AccessMode == pgx.ReadOnly || t.lost.nothing {
		return true, &NotAppliedError{Err: err}
	}
	resolving, cancel := t.commits.resolving(ctx)
	defer cancel()
	verdict, why := t.commits.findOut(resolving, &t.lost)
	t.settled = verdict == evidence.Applied || verdict == evidence.NotApplied
	switch verdict {
	case evidence.Applied:
		return false, nil
	case evidence.NotApplied:
		return true, &NotAppliedError{Err: err}
	}
	return false, &CommitUnknownError{ID: t.lost.id(), Node: t.lost.trace.Node, Reason: why, Err: err, commits: t.commits, lost: t.lost}
}

// resolveGrace is how long finding out may go on after the end of the caller's context.
const resolveGrace = time.Second

// resolving returns the context under which to find out: of AcquireTimeout, and as long as ctx lasts and a moment longer.
func (c *commits) resolving(ctx context.Context) (context.Context, context.CancelFunc) {
	var resolving context.Context
	var cancel context.CancelFunc
	if limit := c.config.AcquireTimeout; limit > 0 {
		resolving, cancel = context.WithTimeout(context.WithoutCancel(ctx), limit)
	} else {
		resolving, cancel = context.WithCancel(context.WithoutCancel(ctx))
	}
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(resolveGrace):
			cancel()
		case <-resolving.Done():
		}
	})
	return resolving, func() { stop(); cancel() }
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
