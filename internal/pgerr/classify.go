package pgerr

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// RefusalError is a connection attempt that failed although the node answered, and not with an error of PostgreSQL. The
// server does not trust the client's certificate or the client does not trust the server's, the server has no TLS, or it
// does not authenticate as required.
type RefusalError struct{ Err error }

func (e *RefusalError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RefusalError) Unwrap() error { return e.Err }

// IsNoServer reports whether the error of a connection attempt proves that no server accepts sessions at the address.
// Proof is a refused connection, a connection that ends at once, or the SQLSTATE of start-up and shutdown. A failure to
// reach, find or log in to a node proves nothing.
func IsNoServer(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code == CannotConnectNow
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return true
	}
	if IsConnectionEnd(err) {
		return !Is[*RefusalError](err)
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Net == "unix" && errors.Is(err, syscall.ENOENT) // no socket file
}

// IsConnectionEnd reports whether the other side has ended the connection: by a shutdown or pg_terminate_backend, by the
// crash of another session, or without a message.
func IsConnectionEnd(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code == AdminShutdown || pgErr.Code == CrashShutdown
	}
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// IsSilence reports whether err is the end of a wait or comes from the network. An error that the server sent is no
// silence, and neither is an error by which the client rejects an answer, an alert of TLS, or the end of the connection.
func IsSilence(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" || IsConnectionEnd(err) {
		return false
	}
	return Is[net.Error](err) || errors.Is(err, context.Canceled)
}

// IsLoginRefusal reports whether a server refuses the login. A server that starts or stops, and a pooler without a
// server, do not count.
func IsLoginRefusal(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return !InClass(pgErr.Code, OperatorIntervention, ConnectionException)
	}
	return Is[*RefusalError](err) && !IsConnectionEnd(err)
}

// IsLastingRefusal reports whether a connection could not be made because the server refuses the client for what it is or
// asks for: its user, password, address, database or settings. It will refuse the next login too, until somebody changes the
// server or the DSN. If one address of a node refuses the client and another one is silent or down, that is no such refusal.
func IsLastingRefusal(err error) bool {
	connect, ok := errors.AsType[*ConnectError](err)
	if !ok {
		return false
	}
	refused := false
	for _, attempt := range attempts(connect.Err) {
		pgErr, ok := errors.AsType[*pgconn.PgError](attempt)
		switch {
		case ok && InClass(pgErr.Code, InvalidAuthorization, InvalidCatalogName, DataException, SyntaxOrAccessRule):
			refused = true
		case ok, IsSilence(attempt), IsNoServer(attempt):
			return false
		}
	}
	return refused
}

// SQLState returns the code of the server's error, "" if err is of another kind.
func SQLState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// IsStatementRefusal reports whether a server cannot or may not run a statement at all. A statement that only failed this
// time, and a server in trouble, do not count.
func IsStatementRefusal(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && len(pgErr.Code) == 5 && !InClass(pgErr.Code,
		ConnectionException, TransactionRollback, InsufficientResources, OperatorIntervention, InternalError)
}

// IsFatal reports whether err is the message with which the server ended the session, with one of the SQLSTATEs if any
// are given. It must be a FATAL error of PostgreSQL itself, not an ERROR that quotes one.
func IsFatal(err error, codes ...string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.SeverityUnlocalized == "FATAL" && (len(codes) == 0 || slices.Contains(codes, pgErr.Code))
}

// EndsSession reports whether the server ends the session with err. pgx's own rule uses the severity in the server's
// language.
func EndsSession(err *pgconn.PgError) bool {
	return err.SeverityUnlocalized == "FATAL" || err.SeverityUnlocalized == "PANIC"
}

// Is reports whether err or what it wraps is an E.
func Is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
