package hasql

import (
	"cmp"
	"slices"
	"time"
)

// criteria are the wishes of an acquire.
type criteria struct {
	target         Target
	fallbackMaster bool
	masterWeight   float64
	maxLag         time.Duration
	zone           string // "": none is preferred
	synchronous    bool   // whether synchronous standbys are preferred
	atLeast        LSN
	repeat         bool
	timeout        time.Duration // of one acquire; none if it is not positive
}

// volatile reports whether a node may begin or cease to fit without a change of its role or status.
func (w *criteria) volatile() bool { return w.maxLag > 0 || w.atLeast > 0 }

// rank is 0 for the nodes that w prefers, and higher for those that it prefers less. A node of the zone comes before a
// synchronous standby of another zone.
func (w *criteria) rank(n *NodeState) (rank int) {
	if w.zone != "" && n.Zone != w.zone {
		rank += 2
	}
	if w.synchronous && !n.synchronous() {
		rank++
	}
	return rank
}

const ranks = 4

// choice holds the candidates that an acquire may get.
type choice struct {
	fit           []Candidate   // those that are preferred
	rest          [][]Candidate // those that are preferred less, and again less
	all           []Candidate   // all of these
	pastSlowStart []Candidate   // the candidates of fit that are past their slow start, if others are not; else nil
	masters       []Candidate   // the masters that take the share masterWeight of reads
}

// selection holds the candidates of a route as of one snapshot.
type selection struct {
	snapshot *Snapshot
	choice
}

// candidates returns the nodes that fit w, except those that failed.
func (s *Snapshot) candidates(w *criteria, failed map[*node]error) (c choice) {
	masters := func(n *NodeState) bool { return n.Role == RoleMaster && !s.paused && failed[n.node] == nil }
	reads := func(n *NodeState) bool {
		return n.Role == RoleReplica && w.fresh(n) && !n.noReads() && failed[n.node] == nil
	}
	switch w.target {
	case TargetMaster:
		c.fit, c.all = s.filter(masters, w)
	case TargetAny:
		c.fit, c.all = s.filter(func(n *NodeState) bool { return masters(n) || reads(n) }, w)
	default:
		c.fit, c.all = s.filter(reads, w)
		if w.masterWeight == 1 || w.masterWeight > 0 && len(c.fit) > 0 { // a share below 1 needs replicas to share with
			c.masters, _ = s.filter(masters, new(criteria))
		}
		if len(c.fit) == 0 && (w.fallbackMaster || w.target == TargetPreferReplica) {
			c.fit, c.all = s.filter(masters, new(criteria))
		}
	}
	c.pastSlowStart = s.pastSlowStartOf(c.fit)
	if len(c.all) > len(c.fit) {
		s.pastSlowStartOf(c.all)
		c.rest = ranked(c.all, w)[1:]
	}
	return c
}

// fresh reports whether a replica is close enough behind the master, as far as that can be known. A replica whose lag and
// position are both unknown is not within a limit.
func (w *criteria) fresh(n *NodeState) bool {
	told := n.LagKnown || n.Report.LSN != 0
	return (w.maxLag == 0 || told && n.LagTime <= w.maxLag) && n.Report.LSN >= w.atLeast
}

// filter returns the nodes that are up and fit: first those that w prefers, then all.
func (s *Snapshot) filter(fits func(*NodeState) bool, w *criteria) (preferred, all []Candidate) {
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.Status.usable() && fits(n) {
			all = append(all, Candidate{NodeState: n, Latency: n.Latency, load: n.node.load})
		}
	}
	if w.zone == "" && !w.synchronous || len(all) < 2 {
		return indexed(all), all
	}
	return ranked(all, w)[0], all
}

// ranked returns copies of candidates in groups of one rank, those that w prefers first. No group is empty.
func ranked(cs []Candidate, w *criteria) [][]Candidate {
	groups := make([][]Candidate, ranks)
	for _, c := range cs {
		rank := w.rank(c.NodeState)
		groups[rank] = append(groups[rank], c)
	}
	groups = slices.DeleteFunc(groups, func(group []Candidate) bool { return len(group) == 0 })
	for _, group := range groups {
		indexed(group)
	}
	return groups
}

// pastSlowStartOf marks the candidates that came back a moment ago and returns the others. It does nothing and returns nil if
// there are only candidates of one kind.
func (s *Snapshot) pastSlowStartOf(cs []Candidate) []Candidate {
	var warm []Candidate
	for _, c := range cs {
		if s.at.Sub(c.Since) >= slowStart {
			warm = append(warm, c)
		}
	}
	if len(warm) == 0 || len(warm) == len(cs) {
		return nil
	}
	for i := range cs {
		cs[i].slowStarting = s.at.Sub(cs[i].Since) < slowStart
	}
	return indexed(warm)
}

// indexed computes the fields that the pickers of this package use.
func indexed(cs []Candidate) []Candidate {
	order := make([]int, len(cs))
	sum := 0.0
	for i := range cs {
		order[i] = i
		sum += 1 / float64(max(cs[i].Latency, time.Microsecond))
		cs[i].weightSum = sum
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(cs[a].Latency, cs[b].Latency) })
	for k, i := range order {
		cs[k].byLatency = i
	}
	return cs
}
