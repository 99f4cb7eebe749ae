package hasql

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// recordPosition records the position of the master. Until a master was seen, the replica with the highest position stands in for
// it: a master had written everything that this replica has replayed.
func (s *Snapshot) recordPosition(prev *Snapshot) {
	if s.incumbent != prev.incumbent {
		s.wal = nil
	}
	if n := s.incumbentState(); n == nil {
		if n = s.foremost(); n != nil && (len(s.wal) == 0 || n.Report.LSN > s.wal[len(s.wal)-1].lsn) {
			s.addPosition(n)
		}
	} else if n.Role == RoleMaster {
		s.addPosition(n)
	}
}

func (s *Snapshot) addPosition(n *NodeState) {
	if last := len(s.wal) - 1; last >= 0 && n.Report.LSN < s.wal[last].lsn {
		s.wal = nil
	} else if last >= 0 && !n.ReportedAt.After(s.wal[last].at) {
		return
	}
	if n.Report.LSN != 0 {
		s.wal = append(slices.Clip(s.wal[max(0, len(s.wal)-walSamples+1):]), walSample{at: n.ReportedAt, lsn: n.Report.LSN})
	}
}

// foremost returns the replica with the highest position, or nil if none reports one.
func (s *Snapshot) foremost() (most *NodeState) {
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Role == RoleReplica && n.Report.LSN > 0 && (most == nil || n.Report.LSN > most.Report.LSN) {
			most = n
		}
	}
	return most
}

// lastMasterPosition returns the last position that the master reported, and that master. It returns nil if there is none.
func (s *Snapshot) lastMasterPosition() (*walSample, *NodeState) {
	n := s.incumbentState()
	if n == nil || len(s.wal) == 0 {
		return nil, nil
	}
	return &s.wal[len(s.wal)-1], n
}

// takeOutDiverged takes replicas out of use that are proven to have diverged. The position of such a replica shows no lag, but its
// data differs from the master's. A master sends only WAL that it has written, and it was asked for its position after the
// replica had answered. So its position is at least that of a true replica.
//
// The proof ends when the server was restarted (a rewind or rebuild needs that), receives the master's timeline, or is out
// of recovery. It also ends when there is another master or timeline to compare with. A server that does not tell its start
// time is not left out for longer than the proof is seen.
func (s *Snapshot) takeOutDiverged(prev *Snapshot) {
	newest, master := s.lastMasterPosition()
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.diverged != nil && (s.incumbent != prev.incumbent || s.timeline != prev.timeline || !n.diverged.holds(&n.Report, s.timeline)) {
			n.diverged = nil
		}
		if n.diverged == nil && newest != nil && n.Status != StatusForeign && n.beyond(newest) {
			n.diverged = &divergence{
				fmt.Errorf("diverged: it has replayed WAL up to %v, but the master %s was only at %v later; rewind or rebuild it",
					n.Report.LSN, master.Name, newest.lsn), n.Report.StartTime,
			}
		}
		if n.diverged != nil && n.Status == StatusUp {
			n.takeOut(StatusSuspect, n.diverged.cause)
		}
	}
}

func (d *divergence) holds(r *Report, timeline uint32) bool {
	samePostmaster := !d.start.IsZero() && (r.StartTime.IsZero() || r.StartTime.Equal(d.start))
	return samePostmaster && r.InRecovery && (r.Timeline == 0 || r.Timeline != timeline)
}

// smallestSegment is the smallest size of a WAL segment. Every other size is a multiple of it.
const smallestSegment = 1 << 20

// beyond reports whether a standby had replayed more than the master had written when the master was asked later. One
// position proves nothing: a standby that replays the switch to a new segment reports the end of the old segment, which
// the master may still be filling.
func (n *NodeState) beyond(w *walSample) bool {
	r := &n.Report
	return r.InRecovery && r.LSN > w.lsn && w.at.After(n.positionSince) && r.LSN%smallestSegment != 0
}

// measureLag computes how far each replica is behind the master.
//
// The byte lag is the distance to the freshest known position of the master. The time lag is the time since the master
// was at the replica's position. There are two bounds for it. The replica lacks what the master had written by the first
// sample beyond the replica's position, and has everything of the sample before that. Between these bounds the age of the
// last replayed transaction counts, which the replica reports. That age alone would also grow while the master writes
// nothing. A standby that is cut off from its master falls behind by both measures, although it has replayed all that it
// received.
func (s *Snapshot) measureLag() {
	for i := range s.nodes {
		if n := &s.nodes[i]; n.Status == StatusUp && n.Report.InRecovery {
			n.LagBytes, n.LagTime, n.LagKnown = s.lag(&n.Report, n.ReportedAt)
		} else {
			n.LagBytes, n.LagTime, n.LagKnown = 0, 0, n.Status == StatusUp
		}
	}
}

func (s *Snapshot) lag(r *Report, sent time.Time) (bytes uint64, behind time.Duration, known bool) {
	master := s.incumbentState()
	if len(s.wal) == 0 || r.LSN == 0 || master != nil && !r.sameCluster(&master.Report) {
		// There is no position to compare with. The age of the last replayed transaction is an upper bound of the lag.
		return 0, max(r.ReplayDelay, 0), r.ReplayDelay != 0
	}
	newest := s.wal[len(s.wal)-1]
	if r.LSN >= newest.lsn {
		return 0, s.unseen(r, sent.Sub(newest.at)), master != nil
	}
	beyond, _ := slices.BinarySearchFunc(s.wal, r.LSN+1, func(w walSample, lsn LSN) int { return cmp.Compare(w.lsn, lsn) })
	behind = max(r.ReplayDelay, sent.Sub(s.wal[beyond].at), 0)
	if beyond > 0 {
		behind = min(behind, max(sent.Sub(s.wal[beyond-1].at), 0))
	}
	return uint64(newest.lsn - r.LSN), behind, true
}

// unseen returns for how long a replica may have missed new writes, if it has everything that the master was known to
// have. That is 0 while there is a master. Otherwise it is the time since the master was asked last, but at most the age
// of the last transaction that the replica has replayed. If no master was ever known it is 0.
func (s *Snapshot) unseen(r *Report, age time.Duration) time.Duration {
	switch master := s.incumbentState(); {
	case master == nil || master.Role == RoleMaster:
		return 0
	case r.ReplayDelay != 0:
		age = min(age, r.ReplayDelay)
	}
	return max(age, 0)
}
