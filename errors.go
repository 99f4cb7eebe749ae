package hasql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pghasql/hasql/internal/pgerr"
)

var (
	// ErrClosed is the error of every call after [PoolManager.Close] was called.
	ErrClosed = errors.New("hasql: closed")

	errAcquireTimeout = fmt.Errorf("AcquireTimeout: %w", context.DeadlineExceeded)
	errRefused        = errors.New("every node refuses the login")
	errNotProbed      = errors.New("not probed yet")
	errRole           = errors.New("transaction_read_only is neither on nor off")
	errUnidentified   = errors.New("not known yet whether this node belongs to the cluster")
	errUnanswered     = errors.New("probe not answered in time")
	errPanicked       = errors.New("hasql: the function that was to connect panicked")
	errForeignConn    = errors.New("hasql: the connection was not made with the configuration that hasql supplied for it")
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
// An acquire and Ready do not wait any longer, and Refused is true, if every node refuses the login and no node has answered a
// probe since New. Every node means just that: if one of them is down, starts, is silent or has an unknown name, the wait goes
// on, and so it does when nodes begin to refuse the login after one has answered. A refusal is SQLSTATE class 28 (user,
// password, pg_hba.conf), 3D (no such database), 22 or 42 (a setting, no right to connect). Each node is asked again once per
// CheckInterval, so a later acquire succeeds once the cause is removed.
//
// errors.Is finds the reason why the wait ended (context.DeadlineExceeded, also if AcquireTimeout ended it, or
// context.Canceled) and the causes of all nodes. errors.As finds the errors of the acquire's own attempts to connect. It
// does not find the causes of nodes, because a cause belongs to a probe, and the SQLSTATE of a probe is not the SQLSTATE
// of the statement. The causes are in Nodes. Nothing was sent to a server, so a retry is safe.
type NoNodeError struct {
	Wanted string        // the wanted kind of node: "master", "replica", …
	Waited time.Duration // the length of the wait
	Nodes  []NodeState   // the state of every node at the end of the wait
	// Found reports whether there was a node of the wanted kind at the end of the wait. Then it is a connection to it that was
	// missing: because of InUse, or because connecting failed, which the error tells.
	Found bool
	// InUse is the number of connections in use if nodes of the wanted role exist and all their connections are in use.
	// Then the pools are too small, or the application does not release connections. Otherwise InUse is 0.
	InUse int
	// Refused reports whether the wait was given up because every node refuses the login.
	Refused bool

	ended    error            // the context's error: why the wait ended
	cause    error            // the context's cause
	tried    map[string]error // errors of attempts to connect, by the name of the node
	paused   bool             // whether a pause held back acquires of the master
	fallback bool             // whether FallbackMaster would have found a node
	finds    DiscoveryStat    // what became of discovery
}

func (e *NoNodeError) Error() string {
	var b strings.Builder
	waited := "within " + e.Waited.Round(time.Millisecond).String()
	if e.Waited < time.Millisecond {
		waited = "and no time to wait"
	}
	switch {
	case e.Refused:
		fmt.Fprintf(&b, "hasql: no %s: %v", e.Wanted, errRefused)
	case e.InUse > 0:
		fmt.Fprintf(&b, "hasql: no connection to a %s %s: all %d are in use (%v)", e.Wanted, waited, e.InUse, e.cause)
	case e.Found:
		fmt.Fprintf(&b, "hasql: no connection to a %s %s (%v)", e.Wanted, waited, e.cause)
	default:
		fmt.Fprintf(&b, "hasql: no %s %s (%v)", e.Wanted, waited, e.cause)
	}
	if advice := adviceOn(e.Nodes); advice != "" {
		b.WriteString("; " + advice)
	}
	if e.fallback {
		b.WriteString("; a master is up: FallbackMaster (hasql_fallback_master=true) lets reads go to it")
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
	first := make(map[string]string) // the first node of each cause
	for i := range e.Nodes {
		n := &e.Nodes[i]
		cause := e.causeOf(n)
		if same, told := first[cause]; told {
			cause = "as " + same
		} else if cause != "" {
			first[cause] = n.Name
		}
		b.WriteString("; " + n.condition())
		if cause != "" {
			b.WriteString(": " + cause)
		}
	}
	return b.String()
}

// causeOf returns why a node could not be used, and what became of attempts to connect to it, each once.
func (e *NoNodeError) causeOf(n *NodeState) string {
	var cause, tried string
	if n.Cause != nil {
		cause = pgerr.OneLine(n.Cause.Error())
	}
	if err := e.tried[n.Name]; err != nil {
		tried = pgerr.OneLine(err.Error())
	}
	switch {
	case tried == "", cause != "" && strings.HasSuffix(tried, cause):
		return cause
	case cause == "":
		return tried
	}
	return cause + ": " + tried
}

// adviceOn says what to do about nodes of which none can be used, "" if they do not tell. Each advice stands in it once.
func adviceOn(nodes []NodeState) string {
	var list []string
	for i := range nodes {
		n := &nodes[i]
		if n.Status.reachable() {
			return ""
		}
		if advice := pgerr.Advice(n.Cause); advice != "" && !slices.Contains(list, advice) {
			list = append(list, advice)
		}
	}
	return strings.Join(list, "; ")
}

// Unwrap returns the reason why the wait ended and the errors of the attempts to connect.
func (e *NoNodeError) Unwrap() []error {
	errs := []error{e.ended}
	if e.cause != nil {
		errs = append(errs, e.cause)
	}
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
