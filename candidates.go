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
	zone           string
	atLeast        LSN
	repeat         bool
}

// volatile reports whether a node may begin or cease to fit without a change of its role or status.
func (w *criteria) volatile() bool { return w.maxLag > 0 || w.atLeast > 0 }

// choice holds the candidates that an acquire may get.
type choice struct {
	fit           []Candidate
	all           []Candidate // the candidates of every zone; fit may be those of one zone
	pastSlowStart []Candidate // the candidates of fit that are past their slow start, if others are not; else nil
	masters       []Candidate // the masters that take the share masterWeight of reads
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
		c.fit, c.all = s.filter(masters, w.zone)
	case TargetAny:
		c.fit, c.all = s.filter(func(n *NodeState) bool { return masters(n) || reads(n) }, w.zone)
	default:
		c.fit, c.all = s.filter(reads, w.zone)
		if w.masterWeight == 1 || w.masterWeight > 0 && len(c.fit) > 0 { // a share below 1 needs replicas to share with
			c.masters, _ = s.filter(masters, "")
		}
		if len(c.fit) == 0 && (w.fallbackMaster || w.target == TargetPreferReplica) {
			c.fit, c.all = s.filter(masters, "")
		}
	}
	c.pastSlowStart = s.pastSlowStartOf(c.fit)
	if len(c.all) > len(c.fit) {
		s.pastSlowStartOf(c.all)
	}
	return c
}

// fresh reports whether a replica is close enough behind the master, as far as that can be known. A replica whose lag and
// position are both unknown is not within a limit.
func (w *criteria) fresh(n *NodeState) bool {
	told := n.LagKnown || n.Report.LSN != 0
	return (w.maxLag == 0 || told && n.LagTime <= w.maxLag) && n.Report.LSN >= w.atLeast
}

// filter returns the nodes that are up and fit: first those of the zone, or of all zones if that zone has none, then
// those of all zones.
func (s *Snapshot) filter(fits func(*NodeState) bool, zone string) (near, all []Candidate) {
	for i := range s.nodes {
		n := &s.nodes[i]
		if !n.Status.usable() || !fits(n) {
			continue
		}
		c := Candidate{NodeState: n, Latency: n.Latency, load: n.node.load}
		all = append(all, c)
		if zone != "" && n.Zone == zone {
			near = append(near, c)
		}
	}
	if len(near) == 0 {
		near = all
	}
	return indexed(near), all
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
