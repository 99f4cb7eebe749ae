package hasql

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
)

// Verdict says what became of a statement or a transaction. See [Outcome].
type Verdict uint8

const (
	// Unknown: the statement or transaction may have taken effect, or not. Its connection or its context ended before the
	// answer came. Errors that Outcome does not know have this verdict too.
	Unknown Verdict = iota
	// Applied: the statement or transaction took effect.
	Applied
	// NotApplied: it had no effect, and failed for no fault of its own. Nothing was sent, no node was found, or the server
	// undid it in favour of another transaction. The statement, or the transaction as a whole, is safe to repeat.
	NotApplied
	// Refused: it had no effect, because it failed. The server answered it with an error, which errors.AsType finds as a
	// *pgconn.PgError, or the function of [Route.InTx] returned an error. If it is repeated as it is, it most likely fails
	// again.
	Refused
)

func (v Verdict) String() string {
	return [...]string{"unknown", "applied", "not applied", "refused"}[v]
}

// Outcome says what became of a statement or a transaction that ended with err: an error of a [Route], of its rows and
// transactions, or of a connection that was acquired. It looks at the error alone and blocks for nothing.
//
//	err                                                        verdict
//	nil, pgx.ErrNoRows, *NotReplicatedError                    Applied
//	*NotAppliedError, *NoNodeError, ErrClosed                  NotApplied
//	a connection that was not made                             NotApplied
//	whatever pgconn.SafeToRetry allows: nothing was sent       NotApplied
//	ERROR 40001 (serialization), 40P01 (deadlock)              NotApplied
//	any other ERROR of the server's, but of class 08 and 40003 Refused
//	pgx.ErrTxCommitRollback, an error of InTx's function       Refused
//	*CommitUnknownError; a function of InTx that committed     Unknown
//	the end of a connection, also by FATAL; of a context       Unknown
//	everything else                                            Unknown
//
// A statement inside a transaction takes effect with the transaction: what [Route.InTx] returns speaks of that. A CALL or DO
// that commits in its middle, and a batch with a COMMIT in it, may have taken effect up to there whatever became of the
// rest. A server that logs durations may answer a COMMIT that was done with 57014, if it is cancelled right behind. A Route and
// InTx know that case; of a transaction of an acquired connection, for which pgx speaks, nobody can tell.
func Outcome(err error) Verdict {
	var told interface{ outcome() Verdict } // the outermost one knows best
	switch {
	case err == nil:
		return Applied
	case pgconn.SafeToRetry(err):
		return NotApplied
	case errors.As(err, &told):
		return told.outcome()
	case pgerr.Is[*pgconn.ConnectError](err):
		return NotApplied
	case pgerr.Is[*nodepool.EndError](err): // before ErrClosed, which an EndError may wrap
		return Unknown
	case errors.Is(err, ErrClosed):
		return NotApplied
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return Refused
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return outcomeOf(pgErr)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return Applied
	}
	return Unknown
}

// outcomeOf goes by what the server said. A session that is ended may have committed before: PostgreSQL looks for an order
// to stop also behind a commit, where it logs the duration. Class 08 comes from a pooler that has lost its server.
func outcomeOf(err *pgconn.PgError) Verdict {
	severity := err.SeverityUnlocalized
	if severity == "" {
		severity = err.Severity
	}
	switch {
	case severity != "ERROR", pgerr.InClass(err.Code, pgerr.ConnectionException), err.Code == pgerr.StatementCompletionUnknown:
		return Unknown
	case err.Code == pgerr.SerializationFailure, err.Code == pgerr.DeadlockDetected:
		return NotApplied
	}
	return Refused
}
