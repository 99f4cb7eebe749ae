package hasql

import (
	"context"
	"errors"
	"fmt"
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

	ended error            // why the wait ended
	cause error            // of that, if the caller gave one
	tried map[string]error // what came of connecting to nodes that did fit
}

func (e *NoNodeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "hasql: no %s within %v (%v)", e.Wanted, e.Waited.Round(time.Millisecond), e.cause)
	for i := range e.Nodes {
		n := &e.Nodes[i]
		b.WriteString("; ")
		b.WriteString(n.String())
		if err := e.tried[n.Name]; err != nil {
			b.WriteString(": ")
			b.WriteString(oneLine(err.Error()))
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
type connectError struct{ err error }

func (e *connectError) Error() string { return oneLine(e.err.Error()) }
func (e *connectError) Unwrap() error { return e.err }

// redacted returns err without a configuration in it.
func redacted(err error) error {
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return &connectError{connect.Unwrap()}
	}
	return err
}
