package pgfake

import (
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Kill is SIGKILL of every process: each socket ends at once, by EOF or by a
// reset if a request was unread, and dials are refused. What the server had not
// sent is lost, also if it was frozen. On a cut network clients learn of it at
// Heal.
func (n *Node) Kill() {
	defer n.cluster.lock()()
	n.up, n.frozen = false, false
	n.endSessionsLocked(nil)
	n.applyGatesLocked()
}

// Stop is a fast shutdown: FATAL 57P01 to every session, then EOF, then refused
// dials. Frozen sessions hear of it at Thaw.
func (n *Node) Stop() {
	defer n.cluster.lock()()
	n.up = false
	n.endSessionsLocked(adminShutdown())
	n.notifyLocked()
}

// StopImmediate is an immediate shutdown: a WARNING notice 57P01 to every
// session, then EOF, then refused dials.
func (n *Node) StopImmediate() {
	defer n.cluster.lock()()
	n.up = false
	n.endSessionsLocked(notice("57P01",
		"terminating connection due to immediate shutdown command"))
	n.notifyLocked()
}

// Start starts a node that is down, with the role and the log it had. It does
// nothing on one that runs.
func (n *Node) Start() {
	defer n.cluster.lock()()
	n.startLocked()
}

func (n *Node) startLocked() {
	if n.up {
		return
	}
	n.up, n.frozen = true, false
	n.startTime = time.Now()
	n.unlockLocked()
	n.applyGatesLocked()
}

// Crash is the death of one backend: the server ends every session with a
// WARNING notice 57P02 and EOF and recovers at once. Combine it with StartingUp
// for a recovery that takes time.
func (n *Node) Crash() {
	defer n.cluster.lock()()
	n.endSessionsLocked(notice("57P02",
		"terminating connection because of crash of another server process"))
}

// Promote makes a replica the master of a new timeline, one above the highest
// in the cluster. Its sessions stay and are told with the answer to their next
// query. It does nothing on a master.
func (n *Node) Promote() {
	defer n.cluster.lock()()
	highest := 0
	for _, other := range n.cluster.nodes {
		highest = max(highest, other.timeline)
	}
	n.promoteLocked(highest)
}

// PromoteAlone is Promote of a replica that knows of no other's promotion: its
// timeline is one above its own, and may be one that another node has as well.
func (n *Node) PromoteAlone() {
	defer n.cluster.lock()()
	n.promoteLocked(n.timeline)
}

func (n *Node) promoteLocked(highest int) {
	if !n.inRecovery {
		return
	}
	n.timeline = highest + 1
	n.inRecovery, n.paused = false, false
	n.unlockLocked()
	n.appendLocked("", n.lsn)
}

// Demote restarts the node as a replica that keeps its log: FATAL 57P01 to every
// session. It streams if its log is a prefix of the newest master's. A node that
// is down is started.
func (n *Node) Demote() {
	defer n.cluster.lock()()
	n.demoteLocked()
}

// Follow is Demote after a pg_rewind onto the newest master of the cluster:
// whatever that master does not have is forgotten.
func (n *Node) Follow() {
	defer n.cluster.lock()()
	n.inRecovery = true
	if m := n.cluster.masterLocked(); m != nil {
		n.rewindLocked(m)
	}
	n.demoteLocked()
}

func (n *Node) demoteLocked() {
	n.inRecovery, n.up = true, false
	n.endSessionsLocked(adminShutdown())
	n.startLocked()
}

// StartingUp makes the server answer every login with FATAL 57P03, "the
// database system is starting up". Live sessions stay.
func (n *Node) StartingUp(on bool) {
	defer n.cluster.lock()()
	n.startingUp = on
}

// RefuseLogin makes the server answer every login with a FATAL of that
// SQLSTATE: 28P01, 3D000, 53300, … Live sessions stay.
func (n *Node) RefuseLogin(code, message string) {
	defer n.cluster.lock()()
	n.refusal = &Error{Severity: "FATAL", Code: code, Message: message}
}

// AcceptLogin ends RefuseLogin.
func (n *Node) AcceptLogin() {
	defer n.cluster.lock()()
	n.refusal = nil
}

// Freeze is SIGSTOP of every process: dials succeed and whatever clients write
// is taken, but nothing is worked on or answered until Thaw, which catches up in
// order. What had been sent before still arrives.
func (n *Node) Freeze() { n.setGates(func() { n.frozen = n.up }) }

// Thaw is SIGCONT.
func (n *Node) Thaw() { n.setGates(func() { n.frozen = false }) }

// Cut black-holes the network of the node: dials hang until their context ends,
// and bytes of either side, also the end of a connection, wait until Heal, as
// TCP would retransmit them. Replication stops as well.
func (n *Node) Cut() { n.setGates(func() { n.cut = both }) }

// CutRequests is Cut for what clients send alone, CutAnswers for what the server
// sends: a connection that was there goes on in the other direction. There are
// no new ones, for a handshake needs both.
func (n *Node) CutRequests() { n.setGates(func() { n.cut = toServer }) }

// CutAnswers is the other half of Cut, see CutRequests.
func (n *Node) CutAnswers() { n.setGates(func() { n.cut = toClient }) }

// Heal ends Cut, CutRequests and CutAnswers.
func (n *Node) Heal() { n.setGates(func() { n.cut = 0 }) }

// Latency makes every answer leave d after its request arrived. The work itself
// is done at once, so a Kill in between loses the answer, not the commit.
func (n *Node) Latency(d time.Duration) { n.setGates(func() { n.latency = d }) }

// DialTime makes every dial take d, as name service, handshakes and a login that
// asks elsewhere do; connections that are there already are as fast as before.
func (n *Node) DialTime(d time.Duration) {
	defer n.cluster.lock()()
	n.dialTime = d
}

// LockTable is the ACCESS EXCLUSIVE lock on a table that a replica replays: "read"
// and whatever else calls Session.Read waits, and all other statements go on. It
// ends with UnlockTable, and with a restart or a promotion.
func (n *Node) LockTable() {
	defer n.cluster.lock()()
	if n.locked == nil {
		n.locked = make(chan struct{})
	}
}

// UnlockTable ends LockTable.
func (n *Node) UnlockTable() {
	defer n.cluster.lock()()
	n.unlockLocked()
}

func (n *Node) unlockLocked() {
	if n.locked != nil {
		close(n.locked)
		n.locked = nil
	}
}

func (n *Node) setGates(change func()) {
	defer n.cluster.lock()()
	change()
	n.applyGatesLocked()
}

// Terminate is pg_terminate_backend: FATAL 57P01 to one session. It reports
// whether there was one.
func (n *Node) Terminate(pid uint32) bool {
	defer n.cluster.lock()()
	s, ok := n.sessions[pid]
	if ok {
		s.endLocked(adminShutdown())
	}
	return ok
}

// TerminateAll ends every session with FATAL 57P01; the node stays up.
func (n *Node) TerminateAll() {
	defer n.cluster.lock()()
	n.endSessionsLocked(adminShutdown())
}

// endSessionsLocked ends every session after its last words, or as a dead
// process without any.
func (n *Node) endSessionsLocked(lastWords []byte) {
	for _, pid := range slices.Sorted(maps.Keys(n.sessions)) {
		n.sessions[pid].endLocked(lastWords)
	}
	if lastWords == nil {
		for _, l := range n.links {
			l.kill()
		}
	}
}

// adminShutdown is what a session hears when an administrator ends it.
func adminShutdown() []byte {
	return mustEncode(Fatalf("57P01",
		"terminating connection due to administrator command").response())
}

// notice is a WARNING about the end of a session, without an error.
func notice(code, message string) []byte {
	e := &Error{Severity: "WARNING", Code: code, Message: message}
	n := pgproto3.NoticeResponse(*e.response())
	return mustEncode(&n)
}

// mustEncode panics only on a message beyond the protocol's size limit.
func mustEncode(m pgproto3.BackendMessage) []byte {
	b, err := m.Encode(nil)
	if err != nil {
		panic(err)
	}
	return b
}
