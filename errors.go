package hasql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pghasql/hasql/internal/pgerr"
)

var (
	// ErrClosed is the error of every call after [PoolManager.Close] was called.
	ErrClosed = errors.New("hasql: closed")

	errAcquireTimeout = fmt.Errorf("AcquireTimeout: %w", context.DeadlineExceeded)
	errNotProbed      = errors.New("not probed yet")
	errRole           = errors.New("transaction_read_only is neither on nor off")
	errUnidentified   = errors.New("not known yet whether this node belongs to the cluster")
	errUnanswered     = errors.New("probe not answered in time")
	errPanicked       = errors.New("hasql: the function that was to connect panicked")
	errStranger       = errors.New("hasql: the connection was not made with the configuration that hasql supplied for it")
)

// ConfigError lists every problem of a DSN or a [Config]. It contains no password.
type ConfigError struct {
	Problems []string
}

func (e *ConfigError) Error() string {
	return "hasql: invalid configuration: " + strings.Join(e.Problems, "; ")
}

// NoNodeError is the error of an acquire that ran out of time before a node of the wanted role had a connection for it.
// [PoolManager.Ready], [PoolManager.WaitFor] and [PoolManager.WaitNextCheck] return it when their context ends.
//
// errors.Is finds the reason why the wait ended (context.DeadlineExceeded, also if AcquireTimeout ended it, or
// context.Canceled) and the causes of all nodes. errors.As finds the errors of the acquire's own attempts to connect. It
// does not find the causes of nodes, because a cause belongs to a probe, and the SQLSTATE of a probe is not the SQLSTATE
// of the statement. The causes are in Nodes. Nothing was sent to a server, so a retry is safe.
type NoNodeError struct {
	Wanted string        // the wanted kind of node: "master", "replica", …
	Waited time.Duration // the length of the wait
	Nodes  []NodeState   // the state of every node at the end of the wait
	// InUse is the number of connections in use if nodes of the wanted role exist and all their connections are in use.
	// Then the pools are too small, or the application does not release connections. Otherwise InUse is 0.
	InUse int

	ended  error            // the context's error: why the wait ended
	cause  error            // the context's cause
	tried  map[string]error // errors of attempts to connect, by the name of the node
	paused bool             // whether a pause held back acquires of the master
	finds  DiscoveryStat    // what became of discovery
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
	if e.paused {
		b.WriteString("; paused: no acquire gets a connection to the master until Resume is called")
	}
	switch {
	case e.finds.Failing():
		b.WriteString("; discovery fails: " + pgerr.OneLine(strings.TrimPrefix(e.finds.LastError.Error(), "hasql: ")))
	case len(e.Nodes) == 0:
		b.WriteString("; no node has been found yet")
	}
	for i := range e.Nodes {
		n := &e.Nodes[i]
		b.WriteString("; ")
		b.WriteString(n.String())
		if err := e.tried[n.Name]; err != nil {
			if text := pgerr.OneLine(err.Error()); n.Cause == nil || !strings.HasSuffix(text, pgerr.OneLine(n.Cause.Error())) {
				b.WriteString(": " + text)
			}
		}
	}
	return b.String()
}

// Unwrap returns the reason why the wait ended and the errors of the attempts to connect.
func (e *NoNodeError) Unwrap() []error {
	errs := []error{e.ended, e.cause}
	for _, err := range e.tried {
		errs = append(errs, err)
	}
	return errs
}

// Is reports whether target is among the causes of the nodes.
func (e *NoNodeError) Is(target error) bool {
	for i := range e.Nodes {
		if errors.Is(e.Nodes[i].Cause, target) {
			return true
		}
	}
	return false
}

// SafeToRetry returns true, see [pgconn.SafeToRetry].
func (e *NoNodeError) SafeToRetry() bool { return true }

// NodeDownError is the error of operations on a connection that hasql has cut, and of dials that hasql has refused,
// because the node is known to be down, stale or foreign. Nobody knows whether a statement that was in flight took
// effect.
//
// errors.Is and errors.As do not find Cause, because Cause belongs to a probe. The time-out or SQLSTATE of a probe is not
// that of the operation.
type NodeDownError struct {
	Node   string
	Status Status
	Cause  error
}

func (e *NodeDownError) Error() string {
	return fmt.Sprintf("hasql: node %s is %s: %s", e.Node, e.Status, pgerr.OneLine(fmt.Sprint(e.Cause)))
}
