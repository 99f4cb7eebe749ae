package pgfake

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// ErrHangUp, returned by a handler, ends the connection without an answer.
var ErrHangUp = errors.New("pgfake: hang up")

// errCanceled is the cause of a statement's context after a CancelRequest.
var errCanceled = errors.New("pgfake: cancel request")

// Error is what the server answers to a statement when a handler returns it.
// Severity FATAL or PANIC also ends the session.
type Error struct {
	Severity string // empty means ERROR
	Code     string // SQLSTATE
	Message  string
	Detail   string
	Hint     string
}

// Errorf makes an ERROR.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Severity: "ERROR", Code: code, Message: fmt.Sprintf(format, args...)}
}

// Fatalf makes a FATAL, which ends the session.
func Fatalf(code, format string, args ...any) *Error {
	return &Error{Severity: "FATAL", Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s (SQLSTATE %s)", e.severity(), e.Message, e.Code)
}

func (e *Error) severity() string {
	if e.Severity == "" {
		return "ERROR"
	}
	return e.Severity
}

// ends reports whether the session is over after e.
func (e *Error) ends() bool { return e.Severity == "FATAL" || e.Severity == "PANIC" }

func (e *Error) response() *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{
		Severity:            e.severity(),
		SeverityUnlocalized: e.severity(),
		Code:                e.Code,
		Message:             e.Message,
		Detail:              e.Detail,
		Hint:                e.Hint,
	}
}

// serverError turns what a handler returned into what the server answers.
func serverError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Errorf("XX000", "%v", err)
}
