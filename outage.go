package hasql

import "time"

const (
	// reminderInterval is how often the log tells that there is still no master.
	reminderInterval = 10 * time.Second
	// settling is how long after an outage its effects are still counted: connections that are cut then, acquires that wait in
	// line.
	settling = time.Second
)

// outage is a time without a master, and what it did to the work of the service until settling after its end.
type outage struct {
	was, is string        // the masters before and after it
	gap     time.Duration // how long no master was known
	foundAt time.Time     // zero while no master is known

	waited, failed int64         // acquires of the master
	longest        time.Duration // wait of them
	cut, repeated  int64         // see counts
}

// outages follows the outages of the master one after the other, for the log. It is used by one goroutine.
type outages struct {
	counts   *counts
	present  *outage // nil while there is none
	reminded time.Time
}

// follow notes that the master was lost, or found again, or is another one.
func (a *outages) follow(was, is string, gap time.Duration, now time.Time) {
	w, o := &a.counts.waits[TargetMaster], a.present
	if o == nil { // the counts of before are subtracted at the end
		w.takeLongest()
		o = &outage{was: was, waited: -w.ended.Load(), failed: -w.failures.Load(), cut: -a.counts.cut.Load(), repeated: -a.counts.repeated.Load()}
		a.present = o
	}
	if is != "" {
		o.is, o.gap, o.foundAt = is, gap, now
		o.waited += w.begun.Load()
	}
}

// settle returns the outage that is over for long enough, or nil. It ends early when the master changes again.
func (a *outages) settle(prev, next *Snapshot) *outage {
	o := a.present
	if o == nil || o.foundAt.IsZero() || next.at.Sub(o.foundAt) < settling && prev.master().node == next.master().node {
		return nil
	}
	return a.end()
}

// end returns the outage that is over, or nil.
func (a *outages) end() *outage {
	o := a.present
	if o == nil || o.foundAt.IsZero() {
		return nil
	}
	w := &a.counts.waits[TargetMaster]
	o.failed += w.failures.Load()
	o.longest = w.takeLongest()
	o.cut += a.counts.cut.Load()
	o.repeated += a.counts.repeated.Load()
	a.present = nil
	return o
}

// remind reports whether to tell now that there is no master. Where there never was one although a node is up, the DSN may name
// replicas alone: then it is told only if somebody waits for a master.
func (a *outages) remind(s *Snapshot) bool {
	if !s.hunting() || s.at.Sub(later(s.noMasterSince, a.reminded)) < reminderInterval {
		return false
	}
	if s.incumbent == nil && s.count(RoleReplica) > 0 && a.counts.waits[TargetMaster].waiting() == 0 {
		return false
	}
	a.reminded = s.at
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
