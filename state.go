package hasql

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/pgerr"
)

// Role is what the sessions of a node may do.
type Role uint8

const (
	// RoleUnknown is the role of every node whose status is not StatusUp, and of a node that gave an unusable answer. The
	// node gets no new work.
	RoleUnknown Role = iota
	// RoleMaster is the role of a node whose sessions report transaction_read_only off.
	RoleMaster
	// RoleReplica is the role of a node whose sessions report transaction_read_only on.
	RoleReplica
)

func (r Role) String() string {
	return [...]string{"unknown", "master", "replica"}[r]
}

// Status says whether a node may be used, and what happens to its connections.
type Status uint8

const (
	// StatusSuspect is a node that may work but is not to be relied on: it was not probed yet, did not answer within
	// CheckTimeout, refused the login of the monitor, gave an unusable answer, or follows a master that is superseded; or it
	// cannot be told yet whether the node belongs to the cluster. NodeState.Cause says which. The node gets no new acquires.
	// Its connections in use are left alone.
	StatusSuspect Status = iota
	// StatusUp is a node whose last probe is recent and succeeded.
	StatusUp
	// StatusDown is a node that refuses connections, starts, stops, or was silent for DownTimeout. Dials to it fail at
	// once and its connections are cut.
	StatusDown
	// StatusStale is a node out of recovery, and not down, whose timeline is superseded, or a second master on one timeline.
	// It is never used, and its connections are cut at once.
	StatusStale
	// StatusForeign is a node of another cluster: its system identifier differs. It is never used, and its connections
	// are cut.
	StatusForeign
	// StatusBanned is a node that is up and gets no new acquires, because an operator has banned it or because it is no
	// longer listed among the nodes. Its connections in use are left alone.
	StatusBanned
)

func (s Status) String() string {
	return [...]string{"suspect", "up", "down", "stale", "foreign", "banned"}[s]
}

// The following methods say what a status means for the work on a node.

// usable reports whether a node of this status gets new acquires.
func (s Status) usable() bool { return s == StatusUp }

// reachable reports whether connections to a node of this status can be expected to work.
func (s Status) reachable() bool { return s == StatusUp || s == StatusBanned }

// fenced reports whether connections to a node of this status are cut and dials refused.
func (s Status) fenced() bool {
	return s == StatusDown || s == StatusStale || s == StatusForeign
}

// LSN is a position in the write-ahead log (WAL): a number of bytes since the cluster was created. Positions on one
// timeline can be compared. Zero means unknown.
type LSN uint64

// ParseLSN reads PostgreSQL's notation: two hexadecimal numbers with a slash between them, such as 16/B374D848. See
// https://www.postgresql.org/docs/current/datatype-pg-lsn.html.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("hasql: %q is not an LSN such as 16/B374D848", s)
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// Report is the answer of a node to one probe. A zero SystemID, Timeline, LSN, ReplayDelay or StartTime means that the node
// did not tell.
type Report struct {
	Role       Role   // from transaction_read_only
	InRecovery bool   // pg_is_in_recovery()
	SystemID   uint64 // the identifier of the cluster, made by initdb
	Timeline   uint32 // the timeline that the node writes; on a standby the one it receives, visible only with pg_monitor
	LSN        LSN    // write position; on a standby, replay position
	// ReplayDelay is the age of the last transaction that a standby has replayed, by the standby's clock. It also grows
	// while the master writes nothing.
	ReplayDelay time.Duration
	StartTime   time.Time // of the postmaster; shows a restart, and that two names lead to one server
	// RecoveryEnd is the position in the WAL at which the server's recovery ended, by a promotion or at the start after a
	// crash. It is 0 after a clean start. BranchedFrom is the timeline before the promotion. It is set only if this very
	// session was open when the server was promoted.
	RecoveryEnd  LSN
	BranchedFrom uint32
	Pooler       bool  // whether a connection pooler stands before the node: the server process is not the one of the login
	Limited      error // why fields that fencing and lag need are missing; nil if none is missing
}

// life is the present life of the server: it began when the server was started or promoted.
func (r *Report) life() evidence.Life {
	l := evidence.Life{Timeline: r.Timeline, Recovered: uint64(r.RecoveryEnd)}
	if !r.StartTime.IsZero() {
		l.Started = r.StartTime.UnixMicro()
	}
	return l
}

// NodeState is what is known about one node at one moment. It is a value and safe to keep.
type NodeState struct {
	Name string
	Zone string
	// Tags are what is known of the node besides: see [Endpoint]. The map is shared and must not be changed.
	Tags map[string]string

	// Role is RoleUnknown unless Status is StatusUp.
	Role   Role
	Status Status
	// Cause is why Status isn't StatusUp; nil if it is.
	Cause error
	// Since is when Role or Status last changed.
	Since time.Time

	// Report is the node's last good answer, and ReportedAt is when its probe was sent. Both are zero if there was none
	// yet. While Status is StatusUp, ReportedAt is at most CheckInterval plus 10 % plus CheckTimeout ago. If an answer
	// does not contain SystemID, the last known value is kept. The same holds for Timeline while the node is out of
	// recovery.
	Report     Report
	ReportedAt time.Time
	// CheckedAt is when the last probe was sent whose result is known: it was answered, it failed, or CheckTimeout has
	// passed.
	CheckedAt time.Time

	// Latency is the duration of a probe, averaged over the last few probes. Zero means unknown.
	Latency time.Duration
	// LagBytes and LagTime say how far a replica is behind the freshest known position of the master. LagKnown is false if
	// hasql cannot tell. That is so for a node that reports neither its position nor the age of what it has replayed. Before
	// the first master was seen, replicas are compared with the foremost replica, of which the lag is unknown.
	LagBytes uint64
	LagTime  time.Duration
	LagKnown bool

	node             *node
	probe            uint64      // number of the last probe of the node whose result is known
	answered         bool        // whether the node answered that probe
	noServer         bool        // whether that probe proved that no server accepts sessions at the address
	statusUnanswered Status      // the status that follows from a probe without an answer
	noReportSince    time.Time   // when the first probe was sent since which none brought a report; zero if the last one did
	positionSince    time.Time   // when the first answer with the position in Report came
	highestTimeline  uint32      // highest timeline that the node was on, unless that timeline was rolled back
	superseded       bool        // whether a report gave an older timeline than the highest that was seen, and no later report showed that one
	diverged         *divergence // nil unless the node is proven to have other data than the master
	ban              *ban        // an operator's order; nil if there is none
	unlisted         bool        // missing from the last list of nodes; the node stays until nothing of it is in use
	unconfirmed      bool        // joined a cluster that was known, and has not yet said that it belongs to it
}

// noReads reports whether Patroni's tag noloadbalance keeps reads from the node while it is a replica.
func (n *NodeState) noReads() bool { return n.Tags["noloadbalance"] == "true" }

// synchronous reports whether commits wait for the node, as far as the discoverer has told. These are tags of Patroni.
func (n *NodeState) synchronous() bool {
	return n.Tags["sync_standby"] == "true" || n.Tags["quorum_standby"] == "true"
}

// InUse returns the present number of connections in use: those that the node's pool has lent or that acquires wait for,
// and those outside the pool that a [Route.Pool], a [Route.ConnectFunc] or a sql.DB has open. The call is cheap at any
// time.
func (n *NodeState) InUse() int {
	if n.node == nil {
		return 0 // the user made this NodeState
	}
	return n.node.load.InUse()
}

// Free returns how many more connections the node's pool can lend now. It is negative while acquires wait in its queue.
func (n *NodeState) Free() int {
	if n.node == nil {
		return 0
	}
	return n.node.load.Free()
}

// probed reports whether the result of any probe of the node is known.
func (n *NodeState) probed() bool { return !n.CheckedAt.IsZero() }

// String describes the node in one line, as errors show it. The line contains no secrets of connections.
func (n NodeState) String() string {
	if n.Cause == nil {
		return n.condition()
	}
	return n.condition() + ": " + pgerr.OneLine(n.Cause.Error())
}

// condition describes the node without the cause of its status.
func (n *NodeState) condition() string {
	var b strings.Builder
	b.WriteString(n.Name)
	b.WriteByte(' ')
	b.WriteString(n.Status.String())
	if n.Role != RoleUnknown {
		b.WriteByte(' ')
		b.WriteString(n.Role.String())
	}
	if n.Status == StatusUp && n.node != nil {
		limit := n.node.load.Limit()
		fmt.Fprintf(&b, ", %d of %d connections in use", min(limit-n.Free(), limit), limit)
		switch {
		case n.Role == RoleReplica && !n.LagKnown:
			b.WriteString(", lag unknown")
		case n.LagTime > 0 && n.LagBytes == 0: // the time since when it may have missed something
			fmt.Fprintf(&b, ", lag unknown, at most %v", n.LagTime.Round(time.Millisecond))
		case n.LagTime > 0:
			fmt.Fprintf(&b, ", %v behind", n.LagTime.Round(time.Millisecond))
		}
	}
	return b.String()
}

// takeOut takes away the node's role and gives it a status that allows no new acquires.
func (n *NodeState) takeOut(status Status, cause error) {
	n.Role, n.Status, n.Cause = RoleUnknown, status, cause
}

func (r *Report) samePostmaster(o *Report) bool {
	return r.SystemID != 0 && r.SystemID == o.SystemID && r.Timeline == o.Timeline &&
		!r.StartTime.IsZero() && r.StartTime.Equal(o.StartTime)
}

// writableAgain reports whether a server that was read-only, but no standby, accepts writes now.
func (r *Report) writableAgain(was *Report) bool {
	return was.Role == RoleReplica && !was.InRecovery && was.Timeline != 0 && r.Role == RoleMaster && r.Timeline == was.Timeline
}

func (r *Report) sameCluster(o *Report) bool {
	return r.SystemID == o.SystemID || r.SystemID == 0 || o.SystemID == 0
}

// ban is an operator's order that a node gets no new acquires.
type ban struct {
	reason string
	until  time.Time // zero: until Unban
}

func (b *ban) over(now time.Time) bool { return b == nil || !b.until.IsZero() && !now.Before(b.until) }

func (b *ban) cause() error {
	if b.until.IsZero() {
		return fmt.Errorf("banned: %s", b.reason)
	}
	return fmt.Errorf("banned until %s: %s", b.until.Format(time.RFC3339), b.reason)
}

// divergence is the proof that a replica has replayed WAL that the master never wrote.
type divergence struct {
	cause error
	start time.Time // start time of the server that the proof is about; zero if unknown
}
