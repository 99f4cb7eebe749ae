package hasql

import "time"

// briskHunt is how long nodes are probed often when the master is missing.
const briskHunt = 30 * time.Second

// untilNextProbe is the time until the next probe of a node. It is short while there is no master. It is also short while
// the node is a standby that is about to follow a new master. If no master was ever seen there may be none, as in a DSN
// with replicas only; an acquire that waits for a master then asks for probes itself.
func (s *Snapshot) untilNextProbe(n *node, now time.Time, recovery, check time.Duration) time.Duration {
	since := s.noMasterSince
	if n := s.state(n); n != nil && since.IsZero() && n.superseded && n.Report.InRecovery {
		since = n.Since
	}
	if since.IsZero() {
		return check
	}
	missing := now.Sub(since)
	if s.incumbent == nil {
		missing = max(missing, briskHunt)
	}
	return huntInterval(missing, recovery, check)
}

// huntInterval is the time between two probes when a master has been missing for a given time. Probes are frequent at
// first, because a failover is probably under way. Then they become rarer, so that a cluster without a master costs
// little.
func huntInterval(missing, recovery, check time.Duration) time.Duration {
	switch {
	case missing < 5*time.Second:
		return min(recovery, check)
	case missing < briskHunt:
		return min(5*recovery, check)
	case missing < 5*time.Minute:
		return min(25*recovery, check)
	}
	return check
}

// backedOff returns first, doubled for each round after round 0, but at most most. For a round before 0 it returns 0.
func backedOff(first time.Duration, round int, most time.Duration) time.Duration {
	if round < 0 {
		return 0
	}
	return min(first<<min(round, 16), most)
}
