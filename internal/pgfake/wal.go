package pgfake

import (
	"slices"
	"time"
)

// Record is one entry of a node's write-ahead log.
type Record struct {
	Token    string    // of a write; empty for a promotion, a setting or filler
	At       time.Time // of the commit, on the master
	Timeline int
	LSN      int64 // where the record ends

	id      uint64 // unique in the cluster: equal ids at an index mean equal logs up to it
	setting *bool  // of AlterDatabase
}

// Log returns the committed writes that the node holds, oldest first.
func (n *Node) Log() []Record {
	defer n.cluster.lock()()
	var log []Record
	for _, r := range n.wal {
		if r.Token != "" {
			log = append(log, r)
		}
	}
	return log
}

// Behind compares the node's log with that of the newest master: since when it
// lacks a write that is there, zero if it lacks none, and whether it holds
// something that is not.
func (n *Node) Behind() (since time.Time, diverged bool) {
	defer n.cluster.lock()()
	m := n.cluster.masterLocked()
	if m == nil {
		return time.Time{}, false
	}
	common := min(len(n.wal), len(m.wal))
	for common > 0 && n.wal[common-1].id != m.wal[common-1].id {
		common--
	}
	for _, r := range m.wal[common:] {
		if r.Token != "" {
			return r.At, common < len(n.wal)
		}
	}
	return time.Time{}, common < len(n.wal)
}

// SetWriteLSN moves a master's WAL position to lsn, as unlogged work would;
// replicas follow. It does nothing on a replica.
func (n *Node) SetWriteLSN(lsn int64) {
	defer n.cluster.lock()()
	if !n.inRecovery {
		n.appendLocked("", lsn)
	}
}

// SetReplayLSN stops a replica's replay exactly at lsn, until ResumeReplay:
// records of its master up to there are replayed, its own records behind it are
// forgotten. It does nothing on a master.
func (n *Node) SetReplayLSN(lsn int64) {
	defer n.cluster.lock()()
	if !n.inRecovery {
		return
	}
	if m := n.upstreamLocked(); m != nil {
		for len(n.wal) < len(m.wal) && m.wal[len(n.wal)].LSN <= lsn {
			n.replayLocked(m.wal[len(n.wal)])
		}
	}
	for len(n.wal) > 0 && n.wal[len(n.wal)-1].LSN > lsn {
		n.wal = n.wal[:len(n.wal)-1]
	}
	n.lsn = lsn
	n.paused = true
}

// PauseReplay stops a replica's receiving and replaying. What it has not
// replayed is lost if it is promoted.
func (n *Node) PauseReplay() {
	defer n.cluster.lock()()
	n.paused = true
}

// ResumeReplay ends PauseReplay and SetReplayLSN: the replica catches up.
func (n *Node) ResumeReplay() {
	defer n.cluster.lock()()
	n.paused = false
}

// SetReplayDelay makes records reach the replica d after their commit, 0 at
// first. A record on its way is lost with its master.
func (n *Node) SetReplayDelay(d time.Duration) {
	defer n.cluster.lock()()
	n.replayDelay = d
}

// appendLocked commits a record that ends at lsn.
func (n *Node) appendLocked(token string, lsn int64) {
	n.cluster.lastRecord++
	n.cluster.commits[token]++
	n.lsn = lsn
	n.wal = append(n.wal, Record{
		Token:    token,
		At:       time.Now(),
		Timeline: n.timeline,
		LSN:      lsn,
		id:       n.cluster.lastRecord,
	})
}

func (n *Node) replayLocked(r Record) {
	n.wal = append(n.wal, r)
	n.lsn, n.timeline = r.LSN, r.Timeline
	n.cluster.movedLocked()
}

// movedLocked wakes the commits that wait for a replica: one has replayed
// something, or may be heard again.
func (c *Cluster) movedLocked() {
	if c.replayed != nil {
		close(c.replayed)
		c.replayed = nil
	}
}

// awaitReplica blocks until a replica has replayed the record, or until the
// session has been ended, which leaves nothing to acknowledge it with.
func (s *Session) awaitReplica(id uint64) {
	c := s.node.cluster
	unlock := c.lock()
	for !s.node.replicatedLocked(id) {
		if c.replayed == nil {
			c.replayed = make(chan struct{})
		}
		replayed := c.replayed
		unlock()
		select {
		case <-replayed:
		case <-s.ctx.Done():
			return
		}
		unlock = c.lock()
	}
	unlock()
	s.link.awaitThaw()
}

// replicatedLocked reports whether a replica that streams from n holds a record.
func (n *Node) replicatedLocked(id uint64) bool {
	for _, other := range n.cluster.nodes {
		if other.upstreamLocked() != n {
			continue
		}
		for _, r := range slices.Backward(other.wal) {
			if r.id == id {
				return true
			}
		}
	}
	return false
}

// replicateLocked replays on every replica what its master has sent by now.
// Everything that takes Cluster.mu calls it first, so nobody can see a replica
// that is behind, and no goroutine has to wait for a delay.
func (c *Cluster) replicateLocked(now time.Time) {
	for _, n := range c.nodes {
		m := n.upstreamLocked()
		if m == nil || n.paused {
			continue
		}
		for len(n.wal) < len(m.wal) && !now.Before(m.wal[len(n.wal)].At.Add(n.replayDelay)) {
			n.replayLocked(m.wal[len(n.wal)])
		}
		if len(n.wal) == len(m.wal) {
			n.lsn = m.lsn // after SetReplayLSN
		}
	}
}

// upstreamLocked returns the master that a replica streams from: the newest
// reachable one of its cluster, unless their logs have diverged. Under synchronous
// replication it is the newest one, reachable or not: who fails over sees to it
// that nobody goes on to confirm what an older one commits.
func (n *Node) upstreamLocked() *Node {
	if !n.inRecovery || !n.reachableLocked() {
		return nil
	}
	var m *Node
	for _, other := range n.cluster.nodes {
		if !other.inRecovery && (n.cluster.synchronous || other.reachableLocked()) && other.systemID == n.systemID &&
			(m == nil || other.timeline > m.timeline) {
			m = other
		}
	}
	if m == nil || !m.reachableLocked() || !n.prefixOfLocked(m) {
		return nil
	}
	return m
}

// reachableLocked reports whether the node's process works and its network
// carries; a cut keeps other nodes away like clients.
func (n *Node) reachableLocked() bool { return n.up && !n.frozen && n.cut == 0 }

// prefixOfLocked reports whether n holds nothing that m does not.
func (n *Node) prefixOfLocked(m *Node) bool {
	last := len(n.wal) - 1
	return last < 0 || last < len(m.wal) && n.wal[last].id == m.wal[last].id
}

// rewindLocked forgets what m does not have, like pg_rewind.
func (n *Node) rewindLocked(m *Node) {
	if n.prefixOfLocked(m) {
		return
	}
	for !n.prefixOfLocked(m) {
		n.wal = n.wal[:len(n.wal)-1]
	}
	n.lsn, n.timeline = StartLSN, 1
	if len(n.wal) > 0 {
		last := n.wal[len(n.wal)-1]
		n.lsn, n.timeline = last.LSN, last.Timeline
	}
}

// masterLocked returns the master with the highest timeline, or nil.
func (c *Cluster) masterLocked() *Node {
	var m *Node
	for _, n := range c.nodes {
		if !n.inRecovery && (m == nil || n.timeline > m.timeline) {
			m = n
		}
	}
	return m
}
