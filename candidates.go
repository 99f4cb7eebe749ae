package hasql

import (
	"cmp"
	"slices"
	"time"
)

// want is what an acquire asks for.
type want struct {
	target         Target
	fallbackMaster bool
	masterWeight   float64
	maxLag         time.Duration
	zone           string
	atLeast        LSN
	repeat         bool
}

// volatile reports whether nodes begin or cease to fit without any change of role or status.
func (w *want) volatile() bool { return w.maxLag > 0 || w.atLeast > 0 }

// choice is what there is to pick from.
type choice struct {
	fit     []Candidate
	all     []Candidate // of every zone, where fit are those of one
	settled []Candidate // of fit, those that are not rising; nil if none is
	masters []Candidate // what the share masterWeight of reads goes to
}

// candidates returns the nodes that fit w, but for those that failed.
func (s *Snapshot) candidates(w *want, failed map[int]error) (c choice) {
	masters := func(n *NodeState) bool { return n.Role == RoleMaster && failed[n.index] == nil }
	reads := func(n *NodeState) bool { return n.Role == RoleReplica && w.fresh(n) && failed[n.index] == nil }
	switch w.target {
	case TargetMaster:
		c.fit, c.all = s.having(masters, w.zone)
	case TargetAny:
		c.fit, c.all = s.having(func(n *NodeState) bool { return masters(n) || reads(n) }, w.zone)
	default:
		c.fit, c.all = s.having(reads, w.zone)
		if w.masterWeight > 0 {
			c.masters, _ = s.having(masters, "")
		}
		if len(c.fit) == 0 && (w.fallbackMaster || w.target == TargetPreferReplica) {
			c.fit, c.all = s.having(masters, "")
		}
	}
	c.settled = s.settledOf(c.fit)
	if len(c.all) > len(c.fit) {
		s.settledOf(c.all)
	}
	return c
}

// fresh reports whether a replica is close enough behind the master, as far as can be known. One that tells nothing to
// judge it by is not within a limit.
func (w *want) fresh(n *NodeState) bool {
	told := n.LagKnown || n.Report.LSN != 0
	return (w.maxLag == 0 || told && n.LagTime <= w.maxLag) && n.Report.LSN >= w.atLeast
}

// having returns the nodes that are up and fit: those of the zone alone if there are any, and those of all zones.
func (s *Snapshot) having(fits func(*NodeState) bool, zone string) (near, all []Candidate) {
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.Status != StatusUp || !fits(n) {
			continue
		}
		c := Candidate{NodeState: n, Latency: n.Latency, load: n.load}
		all = append(all, c)
		if zone != "" && n.Zone == zone {
			near = append(near, c)
		}
	}
	if len(near) == 0 {
		near = all
	}
	return prepared(near), all
}

// riseTime is how long the share of reads of a node that has come back takes to grow to the full.
const riseTime = 3 * time.Second

// settledOf marks the candidates that have just come back while others were there all the time, and returns these others
// if there are both.
func (s *Snapshot) settledOf(cs []Candidate) []Candidate {
	var settled []Candidate
	for _, c := range cs {
		if s.at.Sub(c.Since) >= riseTime {
			settled = append(settled, c)
		}
	}
	if len(settled) == 0 || len(settled) == len(cs) {
		return nil
	}
	for i := range cs {
		cs[i].rising = s.at.Sub(cs[i].Since) < riseTime
	}
	return prepared(settled)
}

// prepared fills in what the pickers of this package look up.
func prepared(cs []Candidate) []Candidate {
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
