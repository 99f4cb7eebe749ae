package hasql

import (
	"fmt"
	"slices"
	"time"
)

// ruleSettings are the settings of a Config by which changes are applied.
type ruleSettings struct {
	multiMaster     bool
	requireMajority bool
	downTimeout     time.Duration
}

// identify decides which cluster this is. Each node that ever told its system identifier has one vote. The identifier with
// more votes than any other wins. In a tie the present identity wins once it is settled; before that the node that is listed
// first wins. The identity is settled once no awaited answer can change it. Until then no node that tells an identifier is
// used, so that a foreign node that answers first is not taken for the cluster.
//
// A node that joins later has no vote until it has told the identifier of the cluster. So a wrong list of nodes moves no
// client to another cluster, however many nodes that cluster has.
func (s *Snapshot) identify(prev *Snapshot) {
	votes := make(map[uint64]int)
	most := 0
	for i := range s.nodes {
		n := &s.nodes[i]
		id := n.Report.SystemID
		n.unconfirmed = n.unconfirmed && id != s.identity
		if id != 0 && !n.unconfirmed {
			votes[id]++
			most = max(most, votes[id])
		}
	}
	if most == 0 {
		return
	}
	var winner uint64
	if s.identitySettled {
		winner = s.identity
	}
	for i := range s.nodes { // in the order of the configuration, so that the first of equals wins
		if id := s.nodes[i].Report.SystemID; votes[winner] < most && votes[id] == most {
			winner = id
		}
	}
	if id := s.upgraded(prev); id != 0 && votes[id] == most {
		winner = id
	}
	if s.identity != 0 && s.identity != winner {
		s.timeline, s.wal, s.incumbent, s.supersededWhenLeft = 0, nil, nil, nil // another cluster has another history
		for i := range s.nodes {
			n := &s.nodes[i]
			n.superseded, n.diverged, n.highestTimeline = false, nil, 0
		}
	}
	s.identity = winner
	s.identitySettled = s.identitySettled || s.decided(votes)
}

// decided reports whether the identity stays the same even if all nodes that were not probed yet report another one.
func (s *Snapshot) decided(votes map[uint64]int) bool {
	awaited, rival, seen, after := 0, 0, false, true
	for i := range s.nodes {
		n := &s.nodes[i]
		switch id := n.Report.SystemID; {
		case id == s.identity:
			seen = true
		case id != 0:
			rival, after = max(rival, votes[id]), after && seen
		case !n.probed():
			awaited, after = awaited+1, after && seen
		}
	}
	lead := votes[s.identity] - rival - awaited
	return awaited == 0 || lead > 0 || lead == 0 && after
}

// upgraded returns the new identity of a node that belonged to the cluster until now, if all remaining nodes of the
// cluster are down, else 0. This is what pg_upgrade looks like when half of the nodes were upgraded. If an address leads
// to another cluster by mistake, a node of the present cluster is normally up, and the address stays foreign.
func (s *Snapshot) upgraded(prev *Snapshot) (id uint64) {
	if !s.identitySettled {
		return 0
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		was := prev.stateNear(i, n.node)
		switch {
		case n.Report.SystemID == s.identity && n.Status != StatusDown:
			return 0
		case was != nil && was.Report.SystemID == s.identity && n.Report.SystemID != s.identity:
			id = n.Report.SystemID
		}
	}
	return id
}

// resolve gives every node that answers its role and status, in view of the other nodes. It also makes suspect nodes
// stale, which do not answer. takeOutDiverged and takeOutBanned may change the result.
func (s *Snapshot) resolve(r ruleSettings) {
	for i := range s.nodes {
		n := &s.nodes[i]
		if !n.answered {
			continue
		}
		n.Role, n.Status, n.Cause = n.Report.Role, StatusUp, nil
		id := n.Report.SystemID
		if r.multiMaster {
			id = 0 // each of several masters may have its own identifier
		}
		switch {
		case id != 0 && !s.identitySettled:
			n.takeOut(StatusSuspect, errUnidentified)
		case id != 0 && id != s.identity:
			n.takeOut(StatusForeign, fmt.Errorf("system identifier %d differs from the cluster's, %d", id, s.identity))
		case n.Role == RoleUnknown:
			n.takeOut(StatusSuspect, errRole)
		default:
			n.highestTimeline = max(n.highestTimeline, n.Report.Timeline)
			s.timeline = max(s.timeline, n.Report.Timeline)
		}
	}
	if r.multiMaster {
		s.anyMaster()
	} else {
		s.lowerTimeline()
		s.supersede()
		s.onlyOneMaster(r.downTimeout)
	}
	if r.requireMajority {
		s.requireMajority()
	}
}

// lowerTimeline lowers the timeline if the newest one is proven to have been given up. The proof: every node that was on it
// now receives an older timeline, so each was rewound or created anew.
func (s *Snapshot) lowerTimeline() {
	proven := false // stays false if no present node was on the newest timeline
	for i := range s.nodes {
		if n := &s.nodes[i]; s.wasOnNewest(n) {
			if proven = s.rolledBack(n); !proven {
				return
			}
		}
	}
	if !proven {
		return
	}
	newest := uint32(0)
	for i := range s.nodes {
		n := &s.nodes[i]
		if s.wasOnNewest(n) {
			n.highestTimeline = n.Report.Timeline
		}
		newest = max(newest, n.highestTimeline)
	}
	s.timeline = newest
}

func (s *Snapshot) wasOnNewest(n *NodeState) bool {
	ours := n.Report.SystemID == 0 || n.Report.SystemID == s.identity
	return ours && max(n.highestTimeline, n.Report.Timeline) == s.timeline
}

// rolledBack reports whether a node that was on the newest timeline receives an older one now. The node must be a server
// of its own: if its name leads to the server of another node by now, it proves nothing.
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

// supersede takes nodes out of use that are on an older timeline than the highest that was seen. A superseded node stays
// superseded until it reports the current timeline, or recovery without any timeline. A node out of recovery that reports no
// timeline stays superseded.
func (s *Snapshot) supersede() {
	for i := range s.nodes {
		n := &s.nodes[i]
		t := n.Report.Timeline
		n.superseded = n.Status != StatusForeign && (t != 0 && t < s.timeline || t == 0 && n.superseded && !n.Report.InRecovery)
		switch {
		case !n.superseded:
		case n.Report.InRecovery:
			// The node is a standby that follows the old master, perhaps only for now. Its connections need not be cut.
			if n.Status == StatusUp {
				n.takeOut(StatusSuspect, s.supersededCause("follows", t))
			}
		case n.Status == StatusUp || n.Status == StatusSuspect:
			// This includes a read-only node, because its data is superseded too. It also includes a node that hangs, so that
			// its statements end now and not when it is down: a newer master is proof enough.
			n.takeOut(StatusStale, s.supersededCause("on", t))
		}
	}
}

// supersededCause returns the cause for a superseded node. If the cluster may have been rolled back on purpose, which no
// client can see, the text says what to do.
func (s *Snapshot) supersededCause(relation string, t uint32) error {
	for i := range s.nodes {
		if n := &s.nodes[i]; n.answered && n.Report.Timeline == s.timeline {
			return fmt.Errorf("%s timeline %d, superseded by timeline %d", relation, t, s.timeline)
		}
	}
	return fmt.Errorf("%s timeline %d, superseded by timeline %d, which no node is on now; if the cluster was rolled back on purpose, call ForgetCluster",
		relation, t, s.timeline)
}

// requireMajority trusts no master unless more than half of the nodes of the cluster answer. The electorate is the number of
// nodes that the majority is counted of. It grows at once when nodes join, and shrinks only while more than half of the old
// electorate answer. Otherwise a wrong or outdated list could make a majority of the few nodes that a client can reach.
func (s *Snapshot) requireMajority() {
	answering := s.answering()
	s.electorate = max(s.electorate, len(s.nodes))
	if 2*answering > s.electorate {
		s.electorate = len(s.nodes)
		return
	}
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Role == RoleMaster {
			n.takeOut(StatusSuspect, fmt.Errorf("only %d of %d nodes answer, and RequireMajority trusts no master without a majority", answering, s.electorate))
		}
	}
}

// answering returns how many nodes of the cluster answer.
func (s *Snapshot) answering() (count int) {
	for i := range s.nodes {
		if n := &s.nodes[i]; n.answered && n.Status != StatusForeign {
			count++
		}
	}
	return count
}

// onlyOneMaster keeps one of several writable nodes and makes the others stale. It looks at nodes on the newest timeline, of
// which replication makes only one, and at nodes that tell no timeline. A node that tells its timeline wins over one that
// does not. Among equals the incumbent wins, then the first in the list. If the incumbent gives no report, it is waited for,
// for DownTimeout at most, because it may refuse the monitor's login for ever. Two names of one server are both kept.
func (s *Snapshot) onlyOneMaster(downTimeout time.Duration) {
	var keep *NodeState
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Role == RoleMaster && (keep == nil || s.outweighs(n, keep)) {
			keep = n
		}
	}
	if keep == nil {
		return
	}
	if n := s.incumbentState(); n != nil && n.rivalWithoutReport(keep) && s.at.Sub(n.noReportSince) < downTimeout {
		keep = n
	}
	s.incumbent = keep.node
	for i := range s.nodes {
		n := &s.nodes[i]
		if n == keep || n.Report.samePostmaster(&keep.Report) {
			continue
		}
		if n.Role == RoleMaster || n.rivalWithoutReport(keep) { // cut the silent one too: writes go to another node now
			n.takeOut(StatusStale, secondMaster(&n.Report, keep))
		}
	}
}

// outweighs reports whether n, and not the node that was found earlier, stays the master. If both are names of one server,
// the one that is listed is kept, so that the other one can leave.
func (s *Snapshot) outweighs(n, earlier *NodeState) bool {
	if n.unlisted != earlier.unlisted && n.Report.samePostmaster(&earlier.Report) {
		return earlier.unlisted
	}
	if told := n.Report.Timeline != 0; told != (earlier.Report.Timeline != 0) {
		return told
	}
	return n.node == s.incumbent
}

func secondMaster(r *Report, first *NodeState) error {
	if r.Timeline == first.Report.Timeline && r.Timeline != 0 {
		return fmt.Errorf("a second master on timeline %d beside %s", r.Timeline, first.Name)
	}
	return fmt.Errorf("a second master beside %s, on an unknown timeline", first.Name)
}

// anyMaster chooses a master to measure lag against if there may be several masters.
func (s *Snapshot) anyMaster() {
	if n := s.incumbentState(); n != nil && n.Role == RoleMaster {
		return
	}
	if i := slices.IndexFunc(s.nodes, func(n NodeState) bool { return n.Role == RoleMaster }); i >= 0 {
		s.incumbent = s.nodes[i].node
	}
}

// rivalWithoutReport reports whether n gives no report now, was a master by its last one, and is not known to be on another
// timeline than the master o.
func (n *NodeState) rivalWithoutReport(o *NodeState) bool {
	r, other := &n.Report, &o.Report
	return n.Status == StatusSuspect && r.Role == RoleMaster && other.Role == RoleMaster &&
		(r.Timeline == other.Timeline || other.Timeline == 0)
}
