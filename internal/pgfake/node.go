package pgfake

import (
	"context"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Node is one PostgreSQL server of a Cluster.
type Node struct {
	cluster    *Cluster
	name, addr string

	// Everything below is guarded by Cluster.mu.

	wake chan struct{} // closed when a hanging dial should look again; nil while none hangs

	// network and process
	up, frozen bool
	cut        way
	latency    time.Duration
	dialTime   time.Duration
	links      []*link
	sessions   map[uint32]*Session // by pid; 0 < pid also before the login is through

	// server
	startingUp      bool
	refusal         *Error        // of logins; nil accepts
	locked          chan struct{} // closed when the lock on what is read is released; nil while there is none
	inRecovery      bool
	defaultReadOnly bool
	systemID        int64
	startTime       time.Time
	version         string

	// write-ahead log
	timeline    int
	lsn         int64
	wal         []Record
	paused      bool
	replayDelay time.Duration

	// counters
	dials, cancels, refused int
	queries                 map[string]int
}

func newNode(c *Cluster, host, port string, replica bool) *Node {
	return &Node{
		cluster:    c,
		name:       host,
		addr:       net.JoinHostPort(host, port),
		up:         true,
		sessions:   make(map[uint32]*Session),
		inRecovery: replica,
		systemID:   DefaultSystemID,
		startTime:  time.Now(),
		version:    DefaultServerVersion,
		timeline:   1,
		lsn:        StartLSN,
		queries:    make(map[string]int),
	}
}

// Name is the host, "pg1".
func (n *Node) Name() string { return n.name }

// Addr is what Dial takes, "pg1:5432".
func (n *Node) Addr() string { return n.addr }

// DSN names this node only.
func (n *Node) DSN() string { return dsn(n.addr) }

// State is what a server knows about itself, all of one moment. A handler that
// plays a probe statement answers from it.
type State struct {
	Up              bool // the process runs (perhaps frozen, starting up or cut off)
	InRecovery      bool // a replica: pg_is_in_recovery()
	Timeline        int  // a replica's is that of the last record it replayed
	SystemID        int64
	LSN             int64 // written on a master, replayed on a replica
	DefaultReadOnly bool  // default_transaction_read_only
	ServerVersion   string
	StartTime       time.Time // pg_postmaster_start_time()
	Streaming       bool      // a replica's WAL receiver runs
	ReplayedAt      time.Time // pg_last_xact_replay_timestamp(): commit time of the last replayed write; zero if none
}

// State returns the state of this moment.
func (n *Node) State() State {
	defer n.cluster.lock()()
	s := State{
		Up:              n.up,
		InRecovery:      n.inRecovery,
		Timeline:        n.timeline,
		SystemID:        n.systemID,
		LSN:             n.lsn,
		DefaultReadOnly: n.defaultReadOnly,
		ServerVersion:   n.version,
		StartTime:       n.startTime,
	}
	if n.inRecovery {
		s.Streaming = n.upstreamLocked() != nil
		for _, r := range slices.Backward(n.wal) {
			if r.Token != "" {
				s.ReplayedAt = r.At
				break
			}
		}
	}
	return s
}

// SetInRecovery turns a replica into a master or back and touches nothing else:
// no restart, no timeline. It makes states that should not exist; see Promote
// and Demote for those that should.
func (n *Node) SetInRecovery(on bool) {
	defer n.cluster.lock()()
	n.inRecovery = on
}

// SetTimeline overrides the timeline until the next promotion or replayed record.
func (n *Node) SetTimeline(timeline int) {
	defer n.cluster.lock()()
	n.timeline = timeline
}

// SetSystemID makes the node a member of another cluster; replicas and masters
// of different identifiers do not stream.
func (n *Node) SetSystemID(id int64) {
	defer n.cluster.lock()()
	n.systemID = id
}

// SetDefaultReadOnly is ALTER SYSTEM SET default_transaction_read_only and a
// reload: live sessions are told with the answer to their next query.
func (n *Node) SetDefaultReadOnly(on bool) {
	defer n.cluster.lock()()
	n.defaultReadOnly = on
}

// AlterDatabase is ALTER DATABASE … SET default_transaction_read_only, and its
// RESET if on is false. It holds for sessions begun later, which keep it for as
// long as they last, whatever is set meanwhile. It does nothing on a replica, as
// replicas get it with the log.
func (n *Node) AlterDatabase(on bool) {
	defer n.cluster.lock()()
	if n.inRecovery {
		return
	}
	n.appendLocked("", n.lsn+WriteSize)
	n.wal[len(n.wal)-1].setting = &on
}

// databaseReadOnlyLocked reports whether a session begun now is read-only by
// AlterDatabase.
func (n *Node) databaseReadOnlyLocked() bool {
	for _, r := range slices.Backward(n.wal) {
		if r.setting != nil {
			return *r.setting
		}
	}
	return false
}

// SetServerVersion applies to new connections. Before 14 the server reports
// neither in_hot_standby nor default_transaction_read_only.
func (n *Node) SetServerVersion(version string) {
	defer n.cluster.lock()()
	n.version = version
}

// SetStartTime overrides pg_postmaster_start_time() until the next restart.
func (n *Node) SetStartTime(t time.Time) {
	defer n.cluster.lock()()
	n.startTime = t
}

// Dials counts the dials so far, also those that were refused or hung, and
// those for a CancelRequest.
func (n *Node) Dials() int {
	defer n.cluster.lock()()
	return n.dials
}

// Refused counts the logins that the server has refused so far, for whatever
// reason.
func (n *Node) Refused() int {
	defer n.cluster.lock()()
	return n.refused
}

// Conns counts the connections that the server holds open, also those that
// have not logged in. A client that closed behind a cut network still counts.
func (n *Node) Conns() int {
	defer n.cluster.lock()()
	return len(n.sessions)
}

// PIDs returns the backend of every connection that has logged in, in order.
func (n *Node) PIDs() []uint32 {
	defer n.cluster.lock()()
	var pids []uint32
	for pid, s := range n.sessions {
		if s.ready {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// Cancels counts the CancelRequests received, also those that matched nothing.
func (n *Node) Cancels() int {
	defer n.cluster.lock()()
	return n.cancels
}

// Queries returns how often each statement was executed, by its trimmed text.
// An extended-protocol statement counts at Execute, not at Parse. Every text is
// kept: a long run should write by "write $1".
func (n *Node) Queries() map[string]int {
	defer n.cluster.lock()()
	return maps.Clone(n.queries)
}

// QueryCount returns how often one statement was executed.
func (n *Node) QueryCount(sql string) int {
	defer n.cluster.lock()()
	return n.queries[trimSQL(sql)]
}

// acceptLocked makes a connection and the session that serves it.
func (n *Node) acceptLocked() net.Conn {
	c := n.cluster
	n.links = slices.DeleteFunc(n.links, (*link).over)
	c.lastPID++
	c.lastPort++
	l := &link{cut: n.cut, frozen: n.frozen, latency: n.latency}
	if c.skewed {
		l.skew = time.Duration(c.lastPID)
	}
	n.links = append(n.links, l)
	s := newSession(n, l, c.lastPID)
	n.sessions[s.pid] = s
	c.sessions.Go(s.serve)
	local := addr(net.JoinHostPort("client", strconv.Itoa(c.lastPort)))
	return &conn{link: l, local: local, remote: addr(n.addr)}
}

// applyGatesLocked tells every link about the network and the process, and lets
// hanging dials look again.
func (n *Node) applyGatesLocked() {
	n.links = slices.DeleteFunc(n.links, (*link).over)
	for _, l := range n.links {
		l.setGates(n.cut, n.frozen, n.latency)
	}
	n.notifyLocked()
	n.cluster.movedLocked()
}

func (n *Node) notifyLocked() {
	if n.wake != nil {
		close(n.wake)
		n.wake = nil
	}
}

// waitLocked gives Cluster.mu up until the network or the process may have
// changed; it reports false when ctx ended first.
func (n *Node) waitLocked(ctx context.Context) bool {
	if n.wake == nil {
		n.wake = make(chan struct{})
	}
	wake := n.wake
	n.cluster.mu.Unlock()
	defer n.cluster.mu.Lock()
	select {
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// reportedLocked returns the parameters that PostgreSQL reports on its own and
// that a node can change under a session.
func (n *Node) reportedLocked() map[string]string {
	if major, _, _ := strings.Cut(n.version, "."); len(major) < 2 || major < "14" {
		return nil
	}
	return map[string]string{
		"in_hot_standby":                onOff(n.inRecovery),
		"default_transaction_read_only": onOff(n.defaultReadOnly),
	}
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
