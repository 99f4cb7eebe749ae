package hasql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrClosed is what every call returns once [PoolManager.Close] was called.
	ErrClosed = errors.New("hasql: closed")

	errAcquireTimeout = fmt.Errorf("AcquireTimeout: %w", context.DeadlineExceeded)
	errNotProbed      = errors.New("not probed yet")
	errRole           = errors.New("transaction_read_only is neither on nor off")
	errUnsettled      = errors.New("not known yet whether it belongs to the cluster")
	errUnanswered     = errors.New("probe not answered in time")
)

// ConfigError says everything that is wrong with a DSN or a [Config]. It holds no password.
type ConfigError struct {
	Problems []string
}

func (e *ConfigError) Error() string {
	return "hasql: invalid configuration: " + strings.Join(e.Problems, "; ")
}

// NoNodeError is returned by acquires whose budget ended before a node of the wanted role had a connection for them, and
// by [PoolManager.Ready] and [PoolManager.WaitNextCheck] when their context ends. errors.Is finds in it what ended the
// wait (context.DeadlineExceeded, also when it was AcquireTimeout, or context.Canceled) and the causes of every node.
type NoNodeError struct {
	Wanted string        // what was asked for: "master", "replica", …
	Waited time.Duration // how long
	Nodes  []NodeState   // what every node looked like at the end
	// InUse is how many connections the nodes of the wanted role may have, if there were such nodes and all of these
	// connections were in use: the pools are too small, or somebody keeps what he should release. Otherwise it is 0.
	InUse int

	ended error            // why the wait ended
	cause error            // of that, if the caller gave one
	tried map[string]error // what came of connecting to nodes that did fit
}

func (e *NoNodeError) Error() string {
	var b strings.Builder
	waited := "within " + e.Waited.Round(time.Millisecond).String()
	if e.Waited < time.Millisecond {
		waited = "and no time to wait"
	}
	if e.InUse > 0 {
		fmt.Fprintf(&b, "hasql: no connection to a %s %s: all %d are in use (%v)", e.Wanted, waited, e.InUse, e.cause)
	} else {
		fmt.Fprintf(&b, "hasql: no %s %s (%v)", e.Wanted, waited, e.cause)
	}
	for i := range e.Nodes {
		n := &e.Nodes[i]
		b.WriteString("; ")
		b.WriteString(n.String())
		if err := e.tried[n.Name]; err != nil {
			if text := oneLine(err.Error()); n.Cause == nil || !strings.HasSuffix(text, oneLine(n.Cause.Error())) {
				b.WriteString(": " + text)
			}
		}
	}
	return b.String()
}

// Unwrap returns what ended the wait and the causes of every node.
func (e *NoNodeError) Unwrap() []error {
	errs := []error{e.ended, e.cause}
	for i := range e.Nodes {
		if err := e.Nodes[i].Cause; err != nil {
			errs = append(errs, err)
		}
	}
	for _, err := range e.tried {
		errs = append(errs, err)
	}
	return errs
}

// NodeDownError is the error of operations on a connection that was cut, and of dials that were refused, because the
// node is known to be down, stale or foreign. Whether a statement in flight took effect is unknown.
//
// errors.Is and errors.As do not find Cause: it tells of a probe, whose time-out or SQLSTATE is not the operation's.
type NodeDownError struct {
	Node   string
	Status Status
	Cause  error
}

func (e *NodeDownError) Error() string {
	return fmt.Sprintf("hasql: node %s is %s: %s", e.Node, e.Status, oneLine(fmt.Sprint(e.Cause)))
}

// connectError is a connection that could not be made. It stands for pgx's error, which carries the whole configuration,
// with its password, for whoever encodes the error by reflection; this has only what happened.
type connectError struct {
	err  error
	host string // of the node
	port uint16
}

// Error tells each cause once, and without the node's address if its name says it already. pgx repeats the address, and
// the whole for each attempt: one with TLS and one without, or one for each address of a name.
func (e *connectError) Error() string {
	var causes []string
	for _, err := range attempts(e.err) {
		causes = append(causes, e.brief(err))
	}
	return strings.Join(unique(causes), ", then ")
}

func (e *connectError) Unwrap() error { return e.err }

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
func (e *connectError) brief(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return strings.Replace(dns.Error(), "lookup "+dns.Name, "lookup", 1)
	}
	text := oneLine(err.Error())
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

// redacted returns err without a configuration in it.
func redacted(err error) error {
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return &connectError{connect.Unwrap(), connect.Config.Host, connect.Config.Port}
	}
	return err
}
