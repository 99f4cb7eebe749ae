package pgerr

import "strings"

// The SQLSTATEs that mean something to us, with PostgreSQL's own names; see
// https://www.postgresql.org/docs/current/errcodes-appendix.html. Every other code is about a statement, a login or the
// state of one session, and decides nothing here.
const (
	// InvalidStatementName is about a prepared statement that the session does not have.
	InvalidStatementName = "26000"
	// ReadOnlySQLTransaction refuses a write. If the node is taken for the master, the monitor asks it again.
	ReadOnlySQLTransaction = "25006"
	// ObjectNotInPrerequisiteState is what a server in recovery says when it is asked for the position at which it writes.
	ObjectNotInPrerequisiteState = "55000"
	// IdleInTransactionTimeout and TransactionTimeout end the session of a transaction that took too long.
	IdleInTransactionTimeout = "25P03"
	TransactionTimeout       = "25P04"
	// SerializationFailure and DeadlockDetected undo a transaction for the sake of another one. It may run again as a whole.
	SerializationFailure = "40001"
	DeadlockDetected     = "40P01"
	// StatementCompletionUnknown says that nobody knows what became of a statement.
	StatementCompletionUnknown = "40003"
	// QueryCanceled ends a statement: a time-out, pg_cancel_backend, or a client that cancels. It undoes the statement, unless its tag
	// came before, in the simple protocol.
	QueryCanceled = "57014"
	// AdminShutdown ends a session: the server is being shut down, or somebody has called pg_terminate_backend. What the
	// session was doing is undone, so a statement may run again once the node is proven to leave.
	AdminShutdown = "57P01"
	// CrashShutdown ends a session because the server shuts down at once, or recovers from the crash of another session.
	// It comes without an answer to the statement, which may have committed: that is never repeated.
	CrashShutdown = "57P02"
	// CannotConnectNow refuses a login because the server starts, stops or recovers: it accepts no sessions.
	CannotConnectNow = "57P03"
	// InvalidPassword and InsufficientPrivilege refuse a login. They decide which advice its error gives.
	InvalidPassword       = "28P01"
	InsufficientPrivilege = "42501"
)

// The classes of SQLSTATEs that refuse a login for what the client is or asks for: the first two characters of a code.
const (
	// InvalidAuthorization refuses the user, the password, or where the client comes from (pg_hba.conf).
	InvalidAuthorization = "28"
	// InvalidCatalogName says that there is no such database.
	InvalidCatalogName = "3D"
	// DataException and SyntaxOrAccessRule refuse a setting of the session, and a user that may not connect to the database.
	DataException      = "22"
	SyntaxOrAccessRule = "42"
)

// The classes of SQLSTATEs that say that a server is in trouble for now, not that it can never answer a statement.
const (
	// ConnectionException is also what a pooler says that has lost its server, or has none.
	ConnectionException = "08"
	// TransactionRollback has conflicts with recovery on a standby, deadlocks and serialization failures.
	TransactionRollback = "40"
	// InsufficientResources has a full server (53300), a full disk and a lack of memory. It says nothing of a node's role.
	InsufficientResources = "53"
	// OperatorIntervention has cancelled statements and everything that starts, stops or ends a server.
	OperatorIntervention = "57"
	// InternalError has faults of the server and damaged data. It says nothing of a node's role.
	InternalError = "XX"
)

// IsConnectionFailure reports whether a SQLSTATE says that a connection failed before what was sent over it could commit. The others of
// its class are a violation of the protocol, and a resolution that is unknown.
func IsConnectionFailure(code string) bool {
	switch code {
	case "08000", "08001", "08003", "08006":
		return true
	}
	return false
}

// InClass reports whether a SQLSTATE belongs to one of the classes.
func InClass(code string, classes ...string) bool {
	for _, class := range classes {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// IsServerStop reports whether a SQLSTATE says that a server stops, has crashed or starts.
func IsServerStop(code string) bool {
	switch code {
	case AdminShutdown, CrashShutdown, CannotConnectNow:
		return true
	}
	return false
}
