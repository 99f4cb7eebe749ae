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
	// RoleUnknown is the role of a node about which nothing is known, or nothing recent enough. The node gets no work.
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
	// StatusSuspect is a node that did not answer a probe within CheckTimeout, gave an unusable answer, or was not probed
	// yet. It gets no new acquires. Its connections in use are left alone.
	StatusSuspect Status = iota
	// StatusUp is a node whose last probe is recent and succeeded.
	StatusUp
	// StatusDown is a node that refuses connections, starts, stops, or was silent for DownTimeout. Dials to it fail at
	// once and its connections are cut.
	StatusDown
	// StatusStale is a node out of recovery whose timeline is superseded, or a second master on one timeline. It is never
	// used, and its connections are cut at once.
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

// Only the following methods say what a status means for the work on a node.

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

// DiscoveryStat is what became of asking a [Discoverer] for the nodes.
type DiscoveryStat struct {
	LastSuccess time.Time // when the last good answer came, zero if there was none
	LastFailure time.Time // when the last question failed, zero if none has
	LastError   error     // why; nil if none has. It stays when there is a good answer again
}

// Failing reports whether the last question failed.
func (s DiscoveryStat) Failing() bool { return s.LastFailure.After(s.LastSuccess) }

// Report is the answer of a node to one probe. A zero field other than Role means that the node did not tell.
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
	// RecoveryEnd is where the recovery ended that a node out of recovery began with: a promotion, or the start after a crash. It
	// is 0 after a start in order. BranchedFrom is the timeline of that recovery, if this very session has seen it end.
	RecoveryEnd  LSN
	BranchedFrom uint32
	Pooler       bool  // whether a connection pooler stands before the node: the server process is not the one of the login
	Limited      error // why fields that fencing and lag need are missing; nil if none is missing
}

// life is the time of the server since its last recovery.
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
	// CheckedAt is when the last finished probe was sent, whether the node answered it or not.
	CheckedAt time.Time

	// Latency is the duration of a probe, averaged over the last few probes. Zero means unknown.
	Latency time.Duration
	// LagBytes and LagTime say how far a replica is behind the freshest known position of the master. LagKnown is false
	// if hasql cannot tell. That is so for a node that does not report its position. It is also so before the first
	// master was seen: then a replica is compared with the replica that has the most.
	LagBytes uint64
	LagTime  time.Duration
	LagKnown bool

	node            *node
	probe           uint64      // number of the last finished probe of the node
	answered        bool        // whether the node answered that probe
	gone            bool        // whether that probe proved that no server accepts sessions there
	unanswered      Status      // the status that an unanswered probe showed
	silentSince     time.Time   // when the first probe of the present silence was sent; zero if the last one was answered
	answeredAt      time.Time   // when the first answer with the position in Report came
	highestTimeline uint32      // highest timeline that the node was on, unless that timeline was rolled back
	superseded      bool        // whether the node's timeline is older than the highest that was seen, by all its reports
	diverged        *divergence // nil unless the node is proven to have other data than the master
	ban             *ban        // an operator's order; nil if there is none
	unlisted        bool        // no longer listed as a member; the node stays until nothing of it is in use
	stranger        bool        // joined a cluster that was known, and has not yet said that it belongs to it
}

// noReads reports whether an operator of the cluster wants the node to take no reads as a replica. It is a tag of Patroni.
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

// probed reports whether a probe of the node has finished, with any result.
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

func (r *Report) sameServer(o *Report) bool {
	return r.SystemID != 0 && r.SystemID == o.SystemID && r.Timeline == o.Timeline &&
		!r.StartTime.IsZero() && r.StartTime.Equal(o.StartTime)
}

// writableAgain reports whether a server accepts writes that was read-only before without having been a standby.
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
