package pgerr

import (
	"errors"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Redacted returns err without a configuration in it: a pgconn.ConnectError becomes a [ConnectError].
func Redacted(err error) error {
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return &ConnectError{connect.Unwrap(), connect.Config.Host, connect.Config.Port}
	}
	return err
}

// ConnectError is a connection that could not be made. It replaces pgx's error, which contains the whole configuration
// with its password and would show it to code that encodes errors by reflection. ConnectError contains only what
// happened.
type ConnectError struct {
	Err error // what the attempts led to

	host string // of the node
	port uint16
}

// Error names each cause once. It omits the address of the node if the node's name contains it. pgx repeats the address,
// and repeats everything for each attempt: one with TLS and one without, or one for each address of a name.
func (e *ConnectError) Error() string {
	var causes []string
	for _, err := range attempts(e.Err) {
		if cause := e.brief(err); !slices.Contains(causes, cause) {
			causes = append(causes, cause)
		}
	}
	return strings.Join(causes, ", then ")
}

// Unwrap returns the errors of the attempts.
func (e *ConnectError) Unwrap() error { return e.Err }

// SafeToRetry returns true: without a connection no statement was sent. See [pgconn.SafeToRetry].
func (e *ConnectError) SafeToRetry() bool { return true }

// attempts returns the errors that pgx has joined.
func attempts(err error) (list []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, err := range joined.Unwrap() {
		list = append(list, attempts(err)...)
	}
	return list
}

// brief shortens what pgx says of one attempt: "10.0.0.1:5432 (pg1): dial error: dial tcp 10.0.0.1:5432: connect: …".
func (e *ConnectError) brief(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return strings.Replace(dns.Error(), "lookup "+dns.Name, "lookup", 1)
	}
	text := OneLine(err.Error())
	addr, cause, ok := strings.Cut(text, " ("+e.host+"): ")
	if !ok {
		return text
	}
	cause = regexp.MustCompile(`(dial|read|write) \S+ (\S+->)?`+regexp.QuoteMeta(addr)+`: `).ReplaceAllString(cause, "")
	if addr == net.JoinHostPort(e.host, strconv.Itoa(int(e.port))) {
		return cause
	}
	return addr + ": " + cause
}

// OneLine folds the several lines of a driver's error into one.
func OneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\t' }), " ")
}
