package hasql

import (
	"github.com/pghasql/hasql/internal/random"
)

// currentSelection returns the candidates as of the current snapshot. The first acquire that sees a new snapshot computes them for
// all.
func (r *Route) currentSelection() *selection {
	s := r.cluster.snapshot()
	t := r.selection.Load()
	if t == nil || t.snapshot != s {
		t = &selection{snapshot: s}
		if !s.closed {
			t.choice = s.candidates(&r.criteria, nil)
		}
		r.selection.Store(t)
	}
	return t
}

// pick chooses one of the candidates. It returns nil if there are none.
func (r *Route) pick(c *choice) *Candidate {
	if len(c.masters) > 0 && random.Fraction() < r.criteria.masterWeight {
		return r.pickOf(c.masters)
	}
	if len(c.rest) > 0 && crowded(c.fit, r.config.ZoneSpillover) {
		if chosen := r.spill(c.rest); chosen != nil {
			return chosen
		}
	}
	chosen := r.pickOf(c.fit)
	if c.pastSlowStart != nil && chosen.slowStarting && !chosen.node.admittedBySlowStart(chosen.Since) {
		return r.pickOf(c.pastSlowStart)
	}
	return chosen
}

// spill chooses one of the candidates that are preferred less: of the first group that is not crowded too. It returns nil if
// all are.
func (r *Route) spill(rest [][]Candidate) *Candidate {
	for _, cs := range rest {
		if !crowded(cs, r.config.ZoneSpillover) {
			chosen := r.pickOf(cs)
			if chosen.slowStarting && !chosen.node.admittedBySlowStart(chosen.Since) {
				return nil
			}
			return chosen
		}
	}
	return nil
}

// crowded reports whether more than a share of the candidates' connections is lent or waited for. All of them are no crowd.
func crowded(cs []Candidate, share float64) bool {
	demand, limit := 0, 0
	for i := range cs {
		demand += cs[i].load.Demand()
		limit += cs[i].load.Limit()
	}
	return share < 1 && float64(demand) > share*float64(limit)
}

func (r *Route) pickOf(cs []Candidate) *Candidate {
	switch len(cs) {
	case 0:
		return nil
	case 1:
		return &cs[0]
	}
	if i := r.config.Picker.Pick(cs); uint(i) < uint(len(cs)) {
		return &cs[i]
	}
	return &cs[0]
}

// fits reports whether a candidate still has the role and status now for which it was picked.
func (r *Route) fits(c *Candidate) bool {
	s := r.cluster.snapshot()
	n := s.state(c.node)
	return n != nil && n.Status.usable() && n.Role == c.Role && (n.Role == RoleMaster && !s.paused || n.Role == RoleReplica && r.criteria.fresh(n))
}
