package hasql

import "context"

// CommitUnknownError is returned by [Route.InTx] if COMMIT was sent, its answer did not come, and nobody can tell what became of the
// transaction: as far as anybody knows it was applied, or was not.
type CommitUnknownError struct {
	ID     CommitID // for [PoolManager.ResolveCommit], also in another process
	Node   string   // that COMMIT was sent to
	Reason string   // why it cannot be told
	Err    error    // how the wait for the answer ended

	commits *commits
	lost    lostCommit
}

func (e *CommitUnknownError) Error() string {
	return "hasql: unknown whether " + e.Node + " has committed: " + e.Reason + " (" + e.Err.Error() + ")"
}

// Unwrap returns Err.
func (e *CommitUnknownError) Unwrap() error { return e.Err }

// SafeToRetry returns false, see [pgconn.SafeToRetry].
func (e *CommitUnknownError) SafeToRetry() bool { return false }
func (e *CommitUnknownError) outcome() Verdict  { return Unknown }

// Resolve tries again to find out whether the transaction was applied. It waits for a master until ctx ends, or AcquireTimeout. The
// error is a *CommitUnknownError while it is still unknown. It is more often known here than by
// [PoolManager.ResolveCommit]: this process has seen more, and asks TxOptions.Verify.
func (e *CommitUnknownError) Resolve(ctx context.Context) (applied bool, err error) {
	return e.commits.resolve(ctx, e.lost, e.Node)
}

// NotAppliedError is the error of a transaction of which it is known that nothing was applied, though it failed for no fault of its
// own, also if its COMMIT was sent: it is safe to repeat. [Route.InTx] returns it after the last attempt.
type NotAppliedError struct {
	Err error // why it failed
}

func (e *NotAppliedError) Error() string { return "hasql: nothing was committed: " + e.Err.Error() }

// Unwrap returns Err.
func (e *NotAppliedError) Unwrap() error { return e.Err }

// SafeToRetry returns true: nothing was applied. See [pgconn.SafeToRetry].
func (e *NotAppliedError) SafeToRetry() bool { return true }

// rolledBackError is an error of InTx's function, or of its own. The transaction was rolled back because of it, whatever it says
// otherwise: a function may return pgx.ErrNoRows, or the error of a statement beside the transaction.
type rolledBackError struct{ err error }

func (e *rolledBackError) Error() string   { return e.err.Error() }
func (e *rolledBackError) Unwrap() error   { return e.err }
func (*rolledBackError) SafeToRetry() bool { return false }
func (*rolledBackError) outcome() Verdict  { return Refused }

// NotReplicatedError says that a statement or transaction was committed on a node, but that the wait for its synchronous standby was
// cancelled: by pg_cancel_backend, or by a time-out of the server's. PostgreSQL calls that a success and adds a warning. It has
// taken effect, and a failover may lose it. Do not repeat it.
type NotReplicatedError struct {
	Node string
}

func (e *NotReplicatedError) Error() string {
	return "hasql: committed on " + e.Node + ", but perhaps not replicated: the wait for a synchronous standby was cancelled"
}

func (e *NotReplicatedError) outcome() Verdict { return Applied }
