package hasql

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/pghasql/hasql/internal/pgerr"
)

// change is anything that makes the next snapshot from the present one: an observation of a monitor, a list of members, an
// operator's order. Changes use no clock, no socket and no log.
type change interface {
	// apply changes s, a copy of the present snapshot with its own slice of nodes. It returns false if nothing changes.
	apply(s *Snapshot) bool
}

// reduce returns the snapshot after a change, or prev itself if nothing changes. Members, roles and statuses are decided
// only here, and at the end by Snapshot.end.
func reduce(prev *Snapshot, c change, r ruleSettings) *Snapshot {
	s := *prev
	s.nodes = slices.Clone(prev.nodes)
	if !c.apply(&s) {
		return prev
	}
	if !r.multiMaster {
		s.identify(prev)
	}
	s.resolve(r)
	s.recordPosition(prev)
	if !r.multiMaster {
		s.takeOutDiverged(prev)
	}
	s.measureLag()
	s.takeOutBanned()
	if s.pauseOver(s.at) {
		s.paused, s.pausedUntil = false, time.Time{}
	}
	for t := range transitions(prev, &s) {
		if t.roleOrStatusChanged() && !t.left() {
			t.new.Since = s.at
		}
	}
	s.countOutage(prev)
	s.noteRefusal()
	return &s
}

// noteRefusal notes whether every node refuses the login, and always has. A service that starts with a wrong password is to be
// told at once. But once a node has answered, a refusal says nothing about the nodes to come: the password may be about to
// change everywhere, or a node that refuses may be the only one left in a failover.
func (s *Snapshot) noteRefusal() {
	refusals := 0
	for i := range s.nodes {
		n := &s.nodes[i]
		s.heard = s.heard || n.answered
		if pgerr.IsLastingRefusal(n.Cause) {
			refusals++
		}
	}
	s.refused = !s.heard && refusals > 0 && refusals == len(s.nodes)
}

// countOutage notes whether there is a master, and counts failovers and the time without one.
func (s *Snapshot) countOutage(prev *Snapshot) {
	if prev.hunting() {
		s.noMasterTotal += max(0, s.at.Sub(prev.at)) // changes may arrive in another order than their times
	}
	if prev.incumbent != nil && s.incumbent != nil && s.incumbent != prev.incumbent {
		s.failovers++
	}
	switch {
	case s.count(RoleMaster) > 0:
		s.noMasterSince = time.Time{}
	case s.noMasterSince.IsZero():
		s.noMasterSince = s.at
	}
}

// observation is one piece of evidence about one node.
type observation struct {
	node     *node
	probe    uint64    // number of the node's probe: the order of the evidence, even if the clock stands still
	sent     time.Time // when the probe was sent: the evidence is not older than that
	at       time.Time // when the evidence was received
	report   *Report   // nil unless the node answered
	status   Status    // without a report: StatusSuspect or StatusDown
	cause    error     // without a report: why
	noServer bool      // without a report: whether it is proven that no server accepts sessions there
}

// sameStateAs reports whether o and p show the same state of the node. It ignores time, position and cause.
func (o *observation) sameStateAs(p *observation) bool {
	if o.report == nil || p.report == nil {
		return o.report == p.report && o.status == p.status
	}
	return o.report.Role == p.report.Role && o.report.Timeline == p.report.Timeline
}

func (o observation) apply(s *Snapshot) bool {
	n := s.state(o.node)
	switch {
	case n == nil:
		return false // the node has left
	case o.probe < n.probe:
		return false // older evidence never replaces newer
	case o.probe == n.probe && o.report == nil && n.probed() && (n.answered || n.statusUnanswered == o.status):
		return false // this probe has been answered already, or was unanswered with the same status
	}
	s.at = o.at
	n.update(o)
	return true
}

// update takes over the evidence about this node alone. For a node that answers, resolve decides role and status.
func (n *NodeState) update(o observation) {
	returned := !n.answered
	n.probe, n.CheckedAt, n.answered = o.probe, o.sent, o.report != nil
	if !n.answered {
		n.statusUnanswered, n.noServer = o.status, o.noServer
		if n.noReportSince.IsZero() {
			n.noReportSince = o.sent
		}
		status := o.status
		if n.Status == StatusDown {
			status = StatusDown // a node that is down stays down while it gives no answer
		}
		n.takeOut(status, o.cause)
		return
	}
	n.noReportSince, n.noServer = time.Time{}, false
	report := *o.report
	if report.Role > RoleReplica {
		report.Role = RoleUnknown
	}
	if report.SystemID == 0 {
		report.SystemID = n.Report.SystemID // a missing identifier does not mean another cluster
	}
	if report.Timeline == 0 && !report.InRecovery && !n.Report.InRecovery {
		report.Timeline = n.Report.Timeline // a master changes its timeline only through recovery
	}
	if report.LSN != n.Report.LSN || report.StartTime.IsZero() || !report.StartTime.Equal(n.Report.StartTime) {
		n.positionSince = o.at
	}
	n.Report, n.ReportedAt = report, o.sent
	took := max(o.at.Sub(o.sent), 1)
	switch {
	case n.Latency == 0, returned: // the node may have come back by another network path, or as another machine
		n.Latency = took
	case took < n.Latency: // goes down quickly: the first probe of a connection is slow because it loads catalogues
		n.Latency = took + (n.Latency-took)/4
	default:
		n.Latency += (took - n.Latency) / 4
	}
}

// membership is the list of the cluster's nodes, in this order. A node that is no longer listed is drained: it stays,
// without new acquires, until its departure. The master stays as it is until another node is the master.
type membership struct {
	members []member
	at      time.Time
}

type member struct {
	node *node
	label
	joins bool // whether the node is new
}

func (l label) equal(n *NodeState) bool {
	return l.name == n.Name && l.zone == n.Zone && maps.Equal(l.tags, n.Tags)
}

// asConfigured returns members with the labels of their configurations.
func asConfigured(nodes []*node) []member {
	members := make([]member, len(nodes))
	for i, n := range nodes {
		members[i] = member{n, n.config.label(), true}
	}
	return members
}

// namesDepartedNode reports whether a node that was a member when the list was made has left since. The pool of that node is closed,
// so the list cannot be applied.
func (m membership) namesDepartedNode(s *Snapshot) bool {
	return slices.ContainsFunc(m.members, func(m member) bool { return !m.joins && s.state(m.node) == nil })
}

func (m membership) apply(s *Snapshot) bool {
	if m.namesDepartedNode(s) {
		return false
	}
	nodes := make([]NodeState, 0, len(s.nodes)+len(m.members))
	news := false
	for i, member := range m.members {
		known := s.stateNear(i, member.node)
		if known == nil {
			nodes, news = append(nodes, s.newcomer(member, m.at)), true
			continue
		}
		news = news || i >= len(s.nodes) || known != &s.nodes[i] || known.unlisted || !member.equal(known)
		known.unlisted = false
		known.Name, known.Zone, known.Tags = member.name, member.zone, member.tags
		nodes = append(nodes, *known)
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		if !slices.ContainsFunc(m.members, func(m member) bool { return m.node == n.node }) {
			news = news || !n.unlisted
			n.unlisted = true
			nodes = append(nodes, *n)
		}
	}
	if news {
		s.nodes, s.at = nodes, m.at
	}
	return news
}

func (s *Snapshot) newcomer(m member, at time.Time) NodeState {
	return NodeState{
		Name: m.name, Zone: m.zone, Tags: m.tags, Cause: errNotProbed, Since: at,
		node: m.node, probe: m.node.checks.begun.Load(), superseded: s.supersededWhenLeft[m.node.address], unconfirmed: s.identitySettled,
		ban: s.bans[m.node.address],
	}
}

// departure removes a node that is no longer listed. The node's monitor has seen that none of its connections is in use.
type departure struct {
	node *node
	at   time.Time
}

func (d departure) apply(s *Snapshot) bool {
	n := s.state(d.node)
	if n == nil || !s.mayLeave(n) {
		return false
	}
	// The server may come back. A superseded node must still be superseded then, and a banned one banned.
	s.supersededWhenLeft = noted(s.supersededWhenLeft, n.node.address, n.superseded)
	s.bans = noted(s.bans, n.node.address, n.ban)
	if 2*s.answering() > s.electorate {
		s.electorate = len(s.nodes) - 1 // this node still counted in the comparison above
	}
	for t := range s.departedAcquires {
		s.departedAcquires[t] += d.node.acquires[t].Load() // with the node itself, so that no sum over all nodes ever decreases
	}
	s.nodes, s.at = slices.DeleteFunc(s.nodes, func(n NodeState) bool { return n.node == d.node }), d.at
	return true
}

// noted returns a map that holds what is noted of a server, and leaves the old map as it is.
func noted[V comparable](known map[address]V, of address, what V) map[address]V {
	if known[of] == what {
		return known
	}
	next := map[address]V{of: what}
	for s, v := range known {
		if s != of {
			next[s] = v
		}
	}
	return next
}

// mayLeave reports whether a node that is no longer listed can be removed without loss. The incumbent cannot: lag is
// measured against it. And a list without the incumbent may be a mistake.
func (s *Snapshot) mayLeave(n *NodeState) bool {
	return n.unlisted && n.node != s.incumbent
}

// banOrder is an operator's order to ban a node or to lift its ban.
type banOrder struct {
	node *node
	ban  *ban // nil lifts the ban
	at   time.Time
}

func (o banOrder) apply(s *Snapshot) bool {
	n := s.state(o.node)
	if n == nil {
		return false
	}
	n.ban, s.at = o.ban, o.at
	return true
}

// takeOutBanned takes nodes that are up out of service if they are banned or no longer listed. It runs after all rules that
// use the nodes' reports, so a banned master is still the master that lag is measured against.
func (s *Snapshot) takeOutBanned() {
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.ban.over(s.at) {
			n.ban = nil
		}
		switch {
		case n.Status != StatusUp:
		case n.ban != nil:
			n.takeOut(StatusBanned, n.ban.cause())
		case s.mayLeave(n):
			n.takeOut(StatusBanned, errUnlisted)
		}
	}
}

var errUnlisted = errors.New("no longer listed among the nodes of the cluster")

// pauseOrder is an operator's order to hold back acquires of the master, or to end that. Of two pauses the one that ends
// later counts.
type pauseOrder struct {
	on    bool
	until time.Time // zero: until it is ended
	at    time.Time
}

func (p pauseOrder) apply(s *Snapshot) bool {
	longer := !s.pausedUntil.IsZero() && (p.until.IsZero() || p.until.After(s.pausedUntil))
	if s.paused == p.on && !(p.on && longer) {
		return false
	}
	s.paused, s.pausedUntil, s.at = p.on, p.until, p.at
	return true
}

// pauseOver reports whether the pause has reached its end.
func (s *Snapshot) pauseOver(now time.Time) bool {
	return s.paused && !s.pausedUntil.IsZero() && !now.Before(s.pausedUntil)
}

// forgetOrder is the order to forget what was learnt about the nodes, as at the start. Operators' orders stay.
type forgetOrder struct{ at time.Time }

func (o forgetOrder) apply(s *Snapshot) bool {
	for i := range s.nodes {
		n := &s.nodes[i]
		*n = NodeState{
			Name: n.Name, Zone: n.Zone, Tags: n.Tags, Status: StatusSuspect, Cause: errNotProbed, Since: n.Since,
			node: n.node, probe: n.probe, ban: n.ban, unlisted: n.unlisted,
		}
	}
	s.at, s.incumbent, s.identity, s.identitySettled, s.timeline, s.wal, s.supersededWhenLeft, s.electorate = o.at, nil, 0, false, 0, nil, nil, 0
	return true
}

// end returns the terminal snapshot: no node is up any more, and the nodes' last reports can still be read.
func (s *Snapshot) end(now time.Time) *Snapshot {
	last := *s
	last.nodes, last.at = slices.Clone(s.nodes), now
	last.closed = true
	if last.noMasterSince.IsZero() {
		last.noMasterSince = now
	}
	for i := range last.nodes {
		if n := &last.nodes[i]; !n.Status.fenced() {
			n.takeOut(StatusSuspect, ErrClosed)
			n.Since = now
		}
	}
	last.measureLag()
	return &last
}
