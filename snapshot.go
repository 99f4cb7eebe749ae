package hasql

import (
	"fmt"
	"iter"
	"slices"
	"time"
)

// Snapshot is an immutable view of all nodes at one moment. It is safe for concurrent use and never changes.
type Snapshot struct {
	nodes     []NodeState
	at        time.Time     // of the observation that made it
	changed   chan struct{} // closed once a later snapshot has another role or status for some node
	next      chan struct{} // closed once there is a later snapshot
	closed    bool          // terminal: nothing comes after it
	incumbent int           // the node that is the master or was it last, -1 if there was none yet
	lostAt    time.Time     // since when no master is known, zero while one is
	identity  uint64        // system identifier of the cluster, 0 if unknown
	settled   bool          // no node that was not heard yet could have changed the identity
	timeline  uint32        // highest timeline seen that was not rolled back
	wal       []walSample   // recent positions of the master, or of a replica until there is one, oldest first
}

// Time returns when the newest evidence in the snapshot was received.
func (s *Snapshot) Time() time.Time { return s.at }

// Nodes returns every node in the order of the configuration.
func (s *Snapshot) Nodes() iter.Seq[NodeState] {
	return slices.Values(s.nodes)
}

// Node returns the node of that name, and whether there is one.
func (s *Snapshot) Node(name string) (NodeState, bool) {
	for i := range s.nodes {
		if s.nodes[i].Name == name {
			return s.nodes[i], true
		}
	}
	return NodeState{}, false
}

// Len returns how many nodes there are, in whatever state.
func (s *Snapshot) Len() int { return len(s.nodes) }

// Closed reports whether the PoolManager was closed. No snapshot comes after such a one.
func (s *Snapshot) Closed() bool { return s.closed }

// Masters returns the nodes that may be written to, normally one.
func (s *Snapshot) Masters() iter.Seq[NodeState] { return s.inRole(RoleMaster) }

// Replicas returns the nodes that may be read from only.
func (s *Snapshot) Replicas() iter.Seq[NodeState] { return s.inRole(RoleReplica) }

// MasterCount returns how many nodes Masters has.
func (s *Snapshot) MasterCount() int { return s.count(RoleMaster) }

// ReplicaCount returns how many nodes Replicas has.
func (s *Snapshot) ReplicaCount() int { return s.count(RoleReplica) }

// NoMasterSince returns since when no master has been known, which is since New if there was none yet. It is zero while
// there is one.
func (s *Snapshot) NoMasterSince() time.Time { return s.lostAt }

func (s *Snapshot) inRole(role Role) iter.Seq[NodeState] {
	return func(yield func(NodeState) bool) {
		for i := range s.nodes {
			if s.nodes[i].Role == role && !yield(s.nodes[i]) {
				return
			}
		}
	}
}

func (s *Snapshot) count(role Role) (n int) {
	for i := range s.nodes {
		if s.nodes[i].Role == role {
			n++
		}
	}
	return n
}

// observation is one piece of evidence about one node.
type observation struct {
	node   int
	probe  uint64    // counts the node's probes: the order of the evidence, also where the clock stands still
	sent   time.Time // when the question was asked: the evidence is at least as old
	at     time.Time // when it was known
	report *Report   // nil unless the node answered
	status Status    // without a report: StatusSuspect or StatusDown
	cause  error     // without a report: why
}

// says reports whether o says the same as p, apart from when and how far.
func (o *observation) says(p *observation) bool {
	if o.report == nil || p.report == nil {
		return o.report == p.report && o.status == p.status
	}
	return o.report.Role == p.report.Role && o.report.Timeline == p.report.Timeline
}

// rules are the parts of a Config that reduce heeds.
type rules struct {
	multiMaster     bool
	requireMajority bool
}

// reduce returns the snapshot after o, or prev itself if o says nothing new. It is the only place where roles and
// statuses come from.
func reduce(prev *Snapshot, o observation, r rules) *Snapshot {
	old := &prev.nodes[o.node]
	switch {
	case o.probe < old.probe:
		return prev // older evidence never replaces newer
	case o.probe == old.probe && o.report == nil && old.heard() && (old.answered || old.Status == o.status):
		return prev // this very question has been answered, or given up in the same way
	}
	s := *prev
	s.nodes = slices.Clone(prev.nodes)
	s.at = o.at
	s.nodes[o.node].absorb(o)

	if !r.multiMaster {
		s.identify(prev, o.node)
	}
	s.fence(r)
	s.sample(prev)
	if !r.multiMaster {
		s.diverge(prev)
	}
	s.measure()
	for i := range s.nodes {
		if n, was := &s.nodes[i], &prev.nodes[i]; n.Role != was.Role || n.Status != was.Status {
			n.Since = o.at
		}
	}
	switch {
	case s.count(RoleMaster) > 0:
		s.lostAt = time.Time{}
	case s.lostAt.IsZero():
		s.lostAt = o.at
	}
	return &s
}

// absorb takes over what o says of this node alone. A reachable node is up here; fence may know better.
func (n *NodeState) absorb(o observation) {
	returned := !n.answered
	n.probe, n.CheckedAt, n.answered = o.probe, o.sent, o.report != nil
	if !n.answered {
		status := o.status
		if n.Status == StatusDown {
			status = StatusDown // mere silence makes it no better
		}
		n.ban(status, o.cause)
		return
	}
	report := *o.report
	if report.Role > RoleReplica {
		report.Role = RoleUnknown
	}
	if report.SystemID == 0 {
		report.SystemID = n.Report.SystemID // an address does not change its cluster by not telling it
	}
	if report.Timeline == 0 && !report.InRecovery && !n.Report.InRecovery {
		report.Timeline = n.Report.Timeline // nor a master its timeline: the way to another leads through recovery
	}
	if report.LSN != n.Report.LSN || report.StartTime.IsZero() || !report.StartTime.Equal(n.Report.StartTime) {
		n.answeredAt = o.at
	}
	n.Report, n.ReportedAt = report, o.sent
	took := max(o.at.Sub(o.sent), 1)
	switch {
	case n.Latency == 0, returned: // it may come back by another way, or as another machine
		n.Latency = took
	case took < n.Latency: // down at once: the first probe of a connection has catalogues to load
		n.Latency = took + (n.Latency-took)/4
	default:
		n.Latency += (took - n.Latency) / 4
	}
}

// identify decides which cluster this is: the one that most of the nodes say they belong to, of those that ever said
// it, and where they are even the one that it was, at first the one that is named first. It is settled once no answer that is
// still awaited can change that; until then nobody is used, so that a foreign node that answers first is not mistaken for the
// cluster.
func (s *Snapshot) identify(prev *Snapshot, asked int) {
	votes := make(map[uint64]int)
	most := 0
	for i := range s.nodes {
		if id := s.nodes[i].Report.SystemID; id != 0 {
			votes[id]++
			most = max(most, votes[id])
		}
	}
	if most == 0 {
		return
	}
	var winner uint64
	if s.settled {
		winner = s.identity
	}
	for i := range s.nodes { // in the order of the configuration, so that the first of equals wins
		if id := s.nodes[i].Report.SystemID; votes[winner] < most && votes[id] == most {
			winner = id
		}
	}
	if id := s.nodes[asked].Report.SystemID; votes[id] == most && s.moved(prev, asked) {
		winner = id
	}
	if s.identity != 0 && s.identity != winner {
		s.timeline, s.wal, s.incumbent = 0, nil, -1 // another history: nothing of the old one holds
		for i := range s.nodes {
			n := &s.nodes[i]
			n.superseded, n.diverged, n.newest = false, nil, 0
		}
	}
	s.identity = winner
	s.settled = s.settled || s.decided(votes)
}

// decided reports whether the identity stays, whatever the nodes say that were not heard yet.
func (s *Snapshot) decided(votes map[uint64]int) bool {
	awaited, rival, seen, after := 0, 0, false, true
	for i := range s.nodes {
		n := &s.nodes[i]
		switch id := n.Report.SystemID; {
		case id == s.identity:
			seen = true
		case id != 0:
			rival, after = max(rival, votes[id]), after && seen
		case !n.heard():
			awaited, after = awaited+1, after && seen
		}
	}
	lead := votes[s.identity] - rival - awaited
	return awaited == 0 || lead > 0 || lead == 0 && after
}

// moved reports whether a node of the cluster has become one of another while all that are left of it are down, which is
// what pg_upgrade looks like where it has begun with half of the nodes. An address that leads elsewhere shows beside a node
// of the cluster that is up, and then stays foreign.
func (s *Snapshot) moved(prev *Snapshot, node int) bool {
	if !s.settled || prev.nodes[node].Report.SystemID != s.identity || s.nodes[node].Report.SystemID == s.identity {
		return false
	}
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Report.SystemID == s.identity && n.Status != StatusDown {
			return false
		}
	}
	return true
}

// fence gives every answering node its final role and status in view of the others.
func (s *Snapshot) fence(r rules) {
	for i := range s.nodes {
		n := &s.nodes[i]
		if !n.answered {
			continue
		}
		n.Role, n.Status, n.Cause = n.Report.Role, StatusUp, nil
		id := n.Report.SystemID
		if r.multiMaster {
			id = 0 // each of several masters may have one of its own
		}
		switch {
		case id != 0 && !s.settled:
			n.ban(StatusSuspect, errUnsettled)
		case id != 0 && id != s.identity:
			n.ban(StatusForeign, fmt.Errorf("system identifier %d, the cluster's is %d", id, s.identity))
		case n.Role == RoleUnknown:
			n.ban(StatusSuspect, errRole)
		default:
			n.newest = max(n.newest, n.Report.Timeline)
			s.timeline = max(s.timeline, n.Report.Timeline)
		}
	}
	if r.multiMaster {
		s.anyMaster()
	} else {
		s.rollBack()
		s.supersede()
		s.onlyOneMaster()
	}
	if r.requireMajority {
		s.needMajority()
	}
}

// rollBack lowers the timeline when it is proven that the newest one was given up: every node that was on it now receives
// an older one, for which it must have been rewound or made anew.
func (s *Snapshot) rollBack() {
	for i := range s.nodes {
		if n := &s.nodes[i]; s.wasOnNewest(n) && !s.rolledBack(n) {
			return
		}
	}
	newest := uint32(0)
	for i := range s.nodes {
		n := &s.nodes[i]
		if s.wasOnNewest(n) {
			n.newest = n.Report.Timeline
		}
		newest = max(newest, n.newest)
	}
	s.timeline = newest
}

func (s *Snapshot) wasOnNewest(n *NodeState) bool {
	ours := n.Report.SystemID == 0 || n.Report.SystemID == s.identity
	return ours && max(n.newest, n.Report.Timeline) == s.timeline
}

// rolledBack reports whether a node that was on the newest timeline receives an older one now. It must be a server of its
// own: where its name leads to another node by now, that one proves nothing.
func (s *Snapshot) rolledBack(n *NodeState) bool {
	r := &n.Report
	if !n.answered || !r.InRecovery || r.Timeline == 0 || r.Timeline >= s.timeline || r.StartTime.IsZero() {
		return false
	}
	for i := range s.nodes {
		if o := &s.nodes[i]; o != n && o.Report.StartTime.Equal(r.StartTime) {
			return false
		}
	}
	return true
}

// supersede bans what belongs to an older timeline than the highest that was seen. Who was superseded once stays so until
// it says better itself: that it is in recovery, or on that timeline. To say nothing of its timeline is not enough.
func (s *Snapshot) supersede() {
	for i := range s.nodes {
		n := &s.nodes[i]
		t := n.Report.Timeline
		n.superseded = n.Status != StatusForeign && (t != 0 && t < s.timeline || t == 0 && n.superseded && !n.Report.InRecovery)
		switch {
		case !n.superseded:
		case n.Report.InRecovery:
			// It follows the old master, or has not turned to the new one yet: nothing to cut.
			if n.Status == StatusUp {
				n.ban(StatusSuspect, s.superseded("follows", t))
			}
		case n.Status == StatusUp || n.Status == StatusSuspect:
			// Also one that is set read-only: what it serves is as superseded. And one that hangs at the moment, so that
			// what runs on it ends now and not when it is given up: a newer master is proof enough.
			n.ban(StatusStale, s.superseded("on", t))
		}
	}
}

// superseded is the cause of a ban. It names the way out of one that nobody on this side can tell from a rollback.
func (s *Snapshot) superseded(relation string, t uint32) error {
	for i := range s.nodes {
		if n := &s.nodes[i]; n.answered && n.Report.Timeline == s.timeline {
			return fmt.Errorf("%s timeline %d, superseded by timeline %d", relation, t, s.timeline)
		}
	}
	return fmt.Errorf("%s timeline %d, superseded by timeline %d, which no node is on now; if the cluster was rolled back on purpose, call PoolManager.ForgetCluster",
		relation, t, s.timeline)
}

// needMajority trusts no master unless most nodes of the cluster answer.
func (s *Snapshot) needMajority() {
	answering := 0
	for i := range s.nodes {
		if n := &s.nodes[i]; n.answered && n.Status != StatusForeign {
			answering++
		}
	}
	if 2*answering > len(s.nodes) {
		return
	}
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Role == RoleMaster {
			n.ban(StatusSuspect, fmt.Errorf("only %d of %d nodes answer, and no master is trusted without a majority", answering, len(s.nodes)))
		}
	}
}

// onlyOneMaster leaves one of several writable nodes on one timeline, which replication cannot produce, or of which some
// tell no timeline: one that tells it, for that is the newest there is; among equals the incumbent, also while it merely
// hangs, else the first. Two names of one server are both left.
func (s *Snapshot) onlyOneMaster() {
	keep := -1
	for i := range s.nodes {
		if s.nodes[i].Role == RoleMaster && (keep < 0 || s.outweighs(i, keep)) {
			keep = i
		}
	}
	if keep < 0 {
		return
	}
	if i := s.incumbent; i >= 0 && s.nodes[i].Status == StatusSuspect && s.nodes[i].Report.rivals(&s.nodes[keep].Report) {
		keep = i
	}
	s.incumbent = keep
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Role == RoleMaster && i != keep && !n.Report.sameServer(&s.nodes[keep].Report) {
			n.ban(StatusStale, secondMaster(&n.Report, &s.nodes[keep]))
		}
	}
}

// outweighs reports whether node i of two masters is rather to be kept than k, which comes before it.
func (s *Snapshot) outweighs(i, k int) bool {
	if told := s.nodes[i].Report.Timeline != 0; told != (s.nodes[k].Report.Timeline != 0) {
		return told
	}
	return i == s.incumbent
}

func secondMaster(r *Report, first *NodeState) error {
	if r.Timeline == first.Report.Timeline && r.Timeline != 0 {
		return fmt.Errorf("a second master on timeline %d beside %s", r.Timeline, first.Name)
	}
	return fmt.Errorf("a second master, on a timeline that it does not tell, beside %s", first.Name)
}

// anyMaster takes some master for the one that replicas are measured by, where there may be several.
func (s *Snapshot) anyMaster() {
	if s.incumbent >= 0 && s.nodes[s.incumbent].Role == RoleMaster {
		return
	}
	if i := slices.IndexFunc(s.nodes, func(n NodeState) bool { return n.Role == RoleMaster }); i >= 0 {
		s.incumbent = i
	}
}

func (n *NodeState) ban(status Status, cause error) {
	n.Role, n.Status, n.Cause = RoleUnknown, status, cause
}

func (r *Report) sameServer(o *Report) bool {
	return r.SystemID != 0 && r.SystemID == o.SystemID && r.Timeline == o.Timeline &&
		!r.StartTime.IsZero() && r.StartTime.Equal(o.StartTime)
}

// writableAgain reports whether a server that was read-only, and is known not to have been a standby, takes writes.
func (r *Report) writableAgain(was *Report) bool {
	return was.Role == RoleReplica && !was.InRecovery && was.Timeline != 0 && r.Role == RoleMaster && r.Timeline == was.Timeline
}

// rivals reports whether both were masters as far as they said, and nothing speaks for o.
func (r *Report) rivals(o *Report) bool {
	return r.Role == RoleMaster && o.Role == RoleMaster && (r.Timeline == o.Timeline || o.Timeline == 0)
}

// forget returns a snapshot in which nothing is known of any node, as at the start.
func (s *Snapshot) forget(now time.Time) *Snapshot {
	next := &Snapshot{nodes: slices.Clone(s.nodes), at: now, changed: s.changed, incumbent: -1, lostAt: s.lostAt}
	if next.lostAt.IsZero() {
		next.lostAt = now
	}
	for i := range next.nodes {
		n := &next.nodes[i]
		*n = NodeState{Name: n.Name, Zone: n.Zone, Cause: errNotProbed, Since: now, probe: n.probe, index: n.index, load: n.load}
	}
	return next
}

// end returns the terminal snapshot: nobody is up any more, though what the nodes said last can still be read.
func (s *Snapshot) end(now time.Time) *Snapshot {
	last := *s
	last.nodes, last.at = slices.Clone(s.nodes), now
	last.closed = true
	if last.lostAt.IsZero() {
		last.lostAt = now
	}
	for i := range last.nodes {
		if n := &last.nodes[i]; !n.Status.severed() {
			n.ban(StatusSuspect, ErrClosed)
			n.Since = now
		}
	}
	last.measure()
	return &last
}

// differs reports whether some node has another role or status than in prev.
func (s *Snapshot) differs(prev *Snapshot) bool {
	for i := range s.nodes {
		if n, was := &s.nodes[i], &prev.nodes[i]; n.Role != was.Role || n.Status != was.Status {
			return true
		}
	}
	return s.closed != prev.closed
}
