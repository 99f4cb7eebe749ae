package hasql

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Role is what a node's sessions may do.
type Role uint8

const (
	// RoleUnknown is a node of which nothing, or nothing fresh enough, is known. It gets no work.
	RoleUnknown Role = iota
	// RoleMaster is a node whose sessions report transaction_read_only off.
	RoleMaster
	// RoleReplica is a node whose sessions report transaction_read_only on.
	RoleReplica
)

func (r Role) String() string {
	return [...]string{"unknown", "master", "replica"}[r]
}

// Status is whether a node may be used, and what becomes of its connections.
type Status uint8

const (
	// StatusSuspect is a node that did not answer a probe within CheckTimeout, answered something unusable, or was
	// not probed yet. It gets no new acquires; connections in use are left alone.
	StatusSuspect Status = iota
	// StatusUp is a node with a good, fresh probe.
	StatusUp
	// StatusDown is a node that refuses connections, is starting or stopping, or was silent for DownTimeout. Dials
	// to it fail at once and its connections are cut.
	StatusDown
	// StatusStale is a node out of recovery whose timeline is superseded, or a second master on one timeline. It is
	// never used, and its connections are cut at once.
	StatusStale
	// StatusForeign is a node of another cluster: its system identifier differs. It is never used, and its
	// connections are cut.
	StatusForeign
)

func (s Status) String() string {
	return [...]string{"suspect", "up", "down", "stale", "foreign"}[s]
}

// severed reports whether connections to a node of this status are cut and dials refused.
func (s Status) severed() bool {
	return s == StatusDown || s == StatusStale || s == StatusForeign
}

// LSN is a position in the write-ahead log: a byte count since the birth of the cluster, comparable on one timeline.
// Zero means unknown.
type LSN uint64

// ParseLSN reads PostgreSQL's notation, two hexadecimal numbers with a slash between: 16/B374D848. See
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

// Report is what a node says of itself in one probe. A zero field other than Role means that the node did not say.
type Report struct {
	Role       Role   // by transaction_read_only
	InRecovery bool   // pg_is_in_recovery()
	SystemID   uint64 // identifies the cluster, given by initdb
	Timeline   uint32 // that it writes; on a standby that it receives, which only roles with pg_monitor may know
	LSN        LSN    // write position; on a standby, replay position
	// ReplayDelay is the age of the last transaction a standby has replayed, by the standby's clock. It grows on
	// while the master has nothing to say.
	ReplayDelay time.Duration
	StartTime   time.Time // of the postmaster; tells a restarted server, and two names of one server
	Pooler      bool      // whether the session is with another process than the connection began with: a pooler's
	Limited     error     // why fields are missing that matter for fencing and lag; nil if none is
}

// NodeState is what is known of one node at one moment: a value, safe to keep.
type NodeState struct {
	Name string
	Zone string

	// Role is RoleUnknown unless Status is StatusUp.
	Role   Role
	Status Status
	// Cause is why Status isn't StatusUp; nil if it is.
	Cause error
	// Since is when Role and Status became what they are.
	Since time.Time

	// Report is the node's last good answer, and ReportedAt when the probe that fetched it was sent. Zero if there was
	// none yet. While Status is StatusUp it is at most CheckInterval, 10 % of it, and CheckTimeout old.
	// SystemID, and Timeline as long as the node is out of recovery, stay what it told last where it tells none.
	Report     Report
	ReportedAt time.Time
	// CheckedAt is when the last finished probe was sent, whether answered or not.
	CheckedAt time.Time

	// Latency is the time a probe takes, averaged over the last few. Zero if unknown.
	Latency time.Duration
	// LagBytes and LagTime are how far a replica is behind the freshest known position of the master. LagKnown is false
	// where that can't be told: before a master was first seen (a replica is then behind by what another one has more), and
	// of a node that does not tell its position.
	LagBytes uint64
	LagTime  time.Duration
	LagKnown bool

	probe      uint64      // counts the node's probes, up to the last finished one
	answered   bool        // whether that one was
	answeredAt time.Time   // when the first answer came with the position of Report
	newest     uint32      // highest timeline that it was on, unless it was rolled back
	superseded bool        // on an older timeline than the highest that was seen, by all it has said
	diverged   *divergence // nil unless it is proven to have other data than the master
	index      int         // in the configuration, the snapshot, and the pool manager
	load       *nodeLoad
}

// InUse returns the number of connections lent or being asked for at this moment. It may be called at any time and
// costs nothing.
func (n *NodeState) InUse() int {
	if n.load == nil {
		return 0 // a NodeState of the user's making
	}
	return n.load.inUse()
}

// Free returns how many more connections the node's pool can lend at this moment, negative while acquires queue for it.
func (n *NodeState) Free() int {
	if n.load == nil {
		return 0
	}
	return n.load.free()
}

// heard reports whether the node has been probed at all, with whatever result.
func (n *NodeState) heard() bool { return !n.CheckedAt.IsZero() }

// String describes the node on one line without its connections' secrets, as errors show it.
func (n NodeState) String() string {
	var b strings.Builder
	b.WriteString(n.Name)
	b.WriteByte(' ')
	b.WriteString(n.Status.String())
	if n.Role != RoleUnknown {
		b.WriteByte(' ')
		b.WriteString(n.Role.String())
	}
	if n.Status == StatusUp && n.load != nil {
		fmt.Fprintf(&b, ", %d of %d connections in use", min(n.InUse(), n.load.limit), n.load.limit)
		switch {
		case n.Role == RoleReplica && !n.LagKnown:
			b.WriteString(", lag unknown")
		case n.LagTime > 0:
			fmt.Fprintf(&b, ", %v behind", n.LagTime.Round(time.Millisecond))
		}
	}
	if n.Cause != nil {
		b.WriteString(": ")
		b.WriteString(oneLine(n.Cause.Error()))
	}
	return b.String()
}

// oneLine folds the several lines of a driver's error into one.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\t' }), " ")
}
