package hasql

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql/internal/nodepool"
)

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

// strayedError is of a function that has ended its transaction by a statement, as COMMIT is one.
type strayedError struct{ err error }

func (e *strayedError) Error() string {
	text := "hasql: the function of InTx has ended its transaction itself: nobody knows what was committed"
	if e.err != nil {
		text += " (" + e.err.Error() + ")"
	}
	return text
}

func (e *strayedError) Unwrap() error   { return e.err }
func (*strayedError) SafeToRetry() bool { return false }
func (*strayedError) outcome() Verdict  { return Unknown }

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

// replicated returns a NotReplicatedError if the server gave up to wait for a synchronous standby.
func replicated(conn *pgxpool.Conn) error {
	if node, gaveUp := nodepool.Unreplicated(conn.Conn()); gaveUp {
		return &NotReplicatedError{Node: node}
	}
	return nil
}
