package hasql

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// walSample is a position that the master had reached, and when that was asked for.
type walSample struct {
	at  time.Time
	lsn LSN
}

const walSamples = 128 // about two minutes at the default CheckInterval

// sample takes down how far the master is. Until the first one is known, the replica that has most stands in for it: what
// that has replayed, a master had written before.
func (s *Snapshot) sample(prev *Snapshot) {
	m := s.incumbent
	if m != prev.incumbent {
		s.wal = nil
	}
	if m < 0 {
		if m = s.foremost(); m >= 0 && (len(s.wal) == 0 || s.nodes[m].Report.LSN > s.wal[len(s.wal)-1].lsn) {
			s.append(&s.nodes[m])
		}
	} else if s.nodes[m].Role == RoleMaster {
		s.append(&s.nodes[m])
	}
}

func (s *Snapshot) append(n *NodeState) {
	if last := len(s.wal) - 1; last >= 0 && n.Report.LSN < s.wal[last].lsn {
		s.wal = nil
	} else if last >= 0 && !n.ReportedAt.After(s.wal[last].at) {
		return
	}
	if n.Report.LSN != 0 {
		s.wal = append(slices.Clip(s.wal[max(0, len(s.wal)-walSamples+1):]), walSample{at: n.ReportedAt, lsn: n.Report.LSN})
	}
}

// foremost returns the replica that has most, -1 if none tells.
func (s *Snapshot) foremost() int {
	most := -1
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Role == RoleReplica && n.Report.LSN > 0 && (most < 0 || n.Report.LSN > s.nodes[most].Report.LSN) {
			most = i
		}
	}
	return most
}

// newest returns the last position that the master told, and where it is or was; nil if none did.
func (s *Snapshot) newest() (*walSample, *NodeState) {
	if s.incumbent < 0 || len(s.wal) == 0 {
		return nil, nil
	}
	return &s.wal[len(s.wal)-1], &s.nodes[s.incumbent]
}

// divergence is the proof that a replica has replayed what the master never wrote.
type divergence struct {
	cause error
	start time.Time // of the server that it is about; zero if that does not tell
}

// diverge leaves out replicas that are proven to have diverged. By its position such a one lacks nothing, yet it has other
// data. The master cannot be behind a true replica: it sends what it has written, and is asked after the replica answered.
//
// The proof holds when the master's position is past the replica's, until the server was restarted (to rewind or rebuild it
// takes that) or receives the master's timeline, or until there is another master or timeline to be compared with.
func (s *Snapshot) diverge(prev *Snapshot) {
	newest, master := s.newest()
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.diverged != nil && (s.incumbent != prev.incumbent || s.timeline != prev.timeline || !n.diverged.holds(&n.Report, s.timeline)) {
			n.diverged = nil
		}
		if n.diverged == nil && newest != nil && n.Status != StatusForeign && n.beyond(newest) {
			n.diverged = &divergence{
				fmt.Errorf("has replayed the log up to %v, and the master %s was at %v after that: it has diverged, rewind or rebuild it",
					n.Report.LSN, master.Name, newest.lsn), n.Report.StartTime,
			}
		}
		if n.diverged != nil && n.Status == StatusUp {
			n.ban(StatusSuspect, n.diverged.cause)
		}
	}
}

func (d *divergence) holds(r *Report, timeline uint32) bool {
	sameServer := !d.start.IsZero() && (r.StartTime.IsZero() || r.StartTime.Equal(d.start))
	return sameServer && r.InRecovery && (r.Timeline == 0 || r.Timeline != timeline)
}

// smallestSegment divides the size of every segment of the WAL.
const smallestSegment = 1 << 20

// beyond reports whether a standby had replayed more than the master had written when it was asked later. One case proves
// nothing: who replays the switch to a new segment tells the end of the old one, which the master may still be filling up.
func (n *NodeState) beyond(w *walSample) bool {
	r := &n.Report
	return r.InRecovery && r.LSN > w.lsn && w.at.After(n.answeredAt) && r.LSN%smallestSegment != 0
}

// measure tells how far each replica is behind the master.
//
// The byte lag is the distance to the freshest known position of the master. The time lag asks when the master was
// where the replica is now: the replica lacks what the master had written by the first sample beyond the replica's
// position, and has all of the sample before. Between these bounds the replica's own word counts, the age of the last
// replayed transaction, which alone would grow while the master has nothing to say. A standby that is cut off from its
// master falls behind by both measures, though by its own it has replayed all that it received.
func (s *Snapshot) measure() {
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Status == StatusUp && n.Report.InRecovery {
			n.LagBytes, n.LagTime, n.LagKnown = s.lag(&n.Report, n.ReportedAt)
		} else {
			n.LagBytes, n.LagTime, n.LagKnown = 0, 0, n.Status == StatusUp
		}
	}
}

func (s *Snapshot) lag(r *Report, sent time.Time) (bytes uint64, behind time.Duration, known bool) {
	if len(s.wal) == 0 || r.LSN == 0 || s.incumbent >= 0 && !r.sameCluster(&s.nodes[s.incumbent].Report) {
		// Nothing to compare with. What it replayed last is at most that old, so this errs on the safe side.
		return 0, max(r.ReplayDelay, 0), r.ReplayDelay != 0
	}
	newest := s.wal[len(s.wal)-1]
	if r.LSN >= newest.lsn {
		return 0, s.unseen(r, sent.Sub(newest.at)), s.incumbent >= 0
	}
	beyond, _ := slices.BinarySearchFunc(s.wal, r.LSN+1, func(w walSample, lsn LSN) int { return cmp.Compare(w.lsn, lsn) })
	behind = max(r.ReplayDelay, sent.Sub(s.wal[beyond].at), 0)
	if beyond > 0 {
		behind = min(behind, max(sent.Sub(s.wal[beyond-1].at), 0))
	}
	return uint64(newest.lsn - r.LSN), behind, true
}

func (r *Report) sameCluster(o *Report) bool {
	return r.SystemID == o.SystemID || r.SystemID == 0 || o.SystemID == 0
}

// unseen is for how long a replica that has all that the master was known to have may have missed what that wrote since: not
// at all while there is a master, else since it was asked last, but not for longer than the last transaction that the
// replica has replayed is old. Where no master was ever known, nothing is.
func (s *Snapshot) unseen(r *Report, age time.Duration) time.Duration {
	switch {
	case s.incumbent < 0 || s.nodes[s.incumbent].Role == RoleMaster:
		return 0
	case r.ReplayDelay != 0:
		age = min(age, r.ReplayDelay)
	}
	return max(age, 0)
}
