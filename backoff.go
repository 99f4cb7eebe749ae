package hasql

import "time"

// A hunt slows down in steps, after the master has been missing for these times. Where no master was ever seen a hunt begins as
// slow as after slowHunt.
const (
	briskHunt = 5 * time.Second
	slowHunt  = 30 * time.Second
	idleHunt  = 5 * time.Minute
)

// probeInterval is the time from one probe of a node to the next, before jitter and dial back-off. It is short while there is no master. It is also short while
// the node is a standby that is about to follow a new master. If no master was ever seen there may be none, as in a DSN
// with replicas only; an acquire that waits for a master then asks for probes itself.
func (s *Snapshot) probeInterval(n *node, now time.Time, recovery, check time.Duration) time.Duration {
	since := s.noMasterSince
	if n := s.state(n); n != nil && since.IsZero() && n.superseded && n.Report.InRecovery {
		since = n.Since
	}
	if since.IsZero() {
		return check
	}
	missing := now.Sub(since)
	if s.incumbent == nil {
		missing = max(missing, slowHunt)
	}
	return huntInterval(missing, recovery, check)
}

// huntInterval is the time between two probes when a master has been missing for a given time. Probes are frequent at
// first, because a failover is probably under way. Then they become rarer, so that a cluster without a master costs
// little.
func huntInterval(missing, recovery, check time.Duration) time.Duration {
	switch {
	case missing < briskHunt:
		return min(recovery, check)
	case missing < slowHunt:
		return min(5*recovery, check)
	case missing < idleHunt:
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
