package hasql

import (
	"iter"
	"slices"
	"time"
)

// Snapshot is an immutable view of all nodes at one moment. It is safe for concurrent use and never changes.
type Snapshot struct {
	nodes   []NodeState   // every node of the cluster: those that are listed, and those that have not left yet
	at      time.Time     // the time of the change that made the snapshot
	changed chan struct{} // closed once a later snapshot differs in what an acquire may get
	next    chan struct{} // closed once there is a later snapshot
	closed  bool          // whether the snapshot is the last one

	incumbent       *node     // the master, or the last one while there is none; nil if there was none yet
	noMasterSince   time.Time // since when no master is known; zero while one is known
	identity        uint64    // system identifier of the cluster; 0 if unknown
	identitySettled bool      // whether the identity is final: no answer that was still missing could change it
	timeline        uint32    // highest timeline seen that was not rolled back
	wal             walLog    // recent positions of the master, or of a replica until a master was seen

	heard   bool // whether any node has ever answered a probe
	refused bool // whether none has, and every node refuses the login, so that it is no use to wait

	departedAcquires [targets]int64 // connections lent by nodes that have left
	failovers        int64          // how often a node became the master that was not the last one
	noMasterTotal    time.Duration  // total time without a known master, up to at

	electorate         int              // the number of nodes of which more than half are a majority
	supersededWhenLeft map[address]bool // addresses of nodes that were superseded when they left
	bans               map[address]*ban // bans by the address of nodes that were banned when they left
	paused             bool             // whether an operator has ordered that new acquires of a master wait
	pausedUntil        time.Time        // when the pause ends by itself; zero: it does not
}

// walSample is a position that the master had reached, and when the probe that told it was sent.
type walSample struct {
	at  time.Time
	lsn LSN
}

// walLog holds positions, oldest first.
type walLog []walSample

const walSamples = 128 // about two minutes at the default CheckInterval

// Time returns when the newest change in the snapshot was made: evidence was received, a list was set, or an order was
// given.
func (s *Snapshot) Time() time.Time { return s.at }

// Nodes returns every node in the order of the configuration, or of the last list. Nodes that are no longer listed come
// last.
func (s *Snapshot) Nodes() iter.Seq[NodeState] {
	return slices.Values(s.nodes)
}

// Node returns the node with that name, and whether there is one.
func (s *Snapshot) Node(name string) (NodeState, bool) {
	for i := range s.nodes {
		if s.nodes[i].Name == name {
			return s.nodes[i], true
		}
	}
	return NodeState{}, false
}

// Len returns the number of nodes, in whatever state.
func (s *Snapshot) Len() int { return len(s.nodes) }

// Closed reports whether the PoolManager was closed. Such a snapshot is the last one.
func (s *Snapshot) Closed() bool { return s.closed }

// Masters returns the nodes that accept writes, normally one.
func (s *Snapshot) Masters() iter.Seq[NodeState] { return s.inRole(RoleMaster) }

// Replicas returns the read-only nodes.
func (s *Snapshot) Replicas() iter.Seq[NodeState] { return s.inRole(RoleReplica) }

// MasterCount returns the number of nodes that Masters returns.
func (s *Snapshot) MasterCount() int { return s.count(RoleMaster) }

// ReplicaCount returns the number of nodes that Replicas returns.
func (s *Snapshot) ReplicaCount() int { return s.count(RoleReplica) }

// NoMasterSince returns since when no master has been known: since New if there was none yet. It is zero while a master
// is known.
func (s *Snapshot) NoMasterSince() time.Time { return s.noMasterSince }

func (s *Snapshot) inRole(role Role) iter.Seq[NodeState] {
	return func(yield func(NodeState) bool) {
		for i := range s.nodes {
			if s.nodes[i].Role == role && !yield(s.nodes[i]) {
				return
			}
		}
	}
}

func (s *Snapshot) count(role Role) (n int) {
	for i := range s.nodes {
		if s.nodes[i].Role == role {
			n++
		}
	}
	return n
}

// complete reports whether there is a listed node and every listed node is up.
func (s *Snapshot) complete() bool {
	listed := false
	for i := range s.nodes {
		if n := &s.nodes[i]; !n.unlisted {
			if listed = true; n.Role == RoleUnknown {
				return false
			}
		}
	}
	return listed
}

// members returns every node.
func (s *Snapshot) members() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		for i := range s.nodes {
			if !yield(s.nodes[i].node) {
				return
			}
		}
	}
}

// state returns what is known about a node, or nil if the node is no member.
func (s *Snapshot) state(n *node) *NodeState { return s.stateNear(0, n) }

// stateNear does what state does, and first looks at index i, where a node usually stays from one snapshot to the next.
func (s *Snapshot) stateNear(i int, n *node) *NodeState {
	if i < len(s.nodes) && s.nodes[i].node == n {
		return &s.nodes[i]
	}
	for i := range s.nodes {
		if s.nodes[i].node == n {
			return &s.nodes[i]
		}
	}
	return nil
}

// incumbentState returns what is known about the master, or about the last one while there is none. It returns nil if there
// was none yet.
func (s *Snapshot) incumbentState() *NodeState {
	if s.incumbent == nil {
		return nil
	}
	return s.state(s.incumbent)
}

// master returns the node that is the master, or the zero NodeState.
func (s *Snapshot) master() NodeState {
	if n := s.incumbentState(); n != nil && n.Role == RoleMaster {
		return *n
	}
	return NodeState{}
}

// hunting reports whether no master is known, so that one is looked for.
func (s *Snapshot) hunting() bool { return !s.noMasterSince.IsZero() }

// transition is the change of one node from a snapshot to a later one.
type transition struct {
	old *NodeState // nil if the node has joined
	new *NodeState // nil if the node has left
}

// transitions returns a transition for each node of two snapshots, also for nodes that have not changed: first for those
// that have left, then for the others in the order of next.
func transitions(prev, next *Snapshot) iter.Seq[transition] {
	return func(yield func(transition) bool) {
		for i := range prev.nodes {
			old := &prev.nodes[i]
			if next.stateNear(i, old.node) == nil && !yield(transition{old: old}) {
				return
			}
		}
		for i := range next.nodes {
			new := &next.nodes[i]
			if !yield(transition{old: prev.stateNear(i, new.node), new: new}) {
				return
			}
		}
	}
}

func (t transition) joined() bool { return t.old == nil }
func (t transition) left() bool   { return t.new == nil }

// roleOrStatusChanged reports whether the node has another role or status, has joined or has left.
func (t transition) roleOrStatusChanged() bool {
	return t.joined() || t.left() || t.old.Role != t.new.Role || t.old.Status != t.new.Status
}

// probed reports whether the result of another probe of the node is known.
func (t transition) probed() bool { return !t.joined() && !t.left() && t.old.probe != t.new.probe }

// restarted reports whether the server is known to have been restarted.
func (t transition) restarted() bool {
	return !t.joined() && !t.left() && restarted(t.old, t.new)
}

func restarted(old, new *NodeState) bool {
	return !old.Report.StartTime.IsZero() && !new.Report.StartTime.IsZero() && !old.Report.StartTime.Equal(new.Report.StartTime)
}

// differs reports whether an acquire may get something else than with prev.
func (s *Snapshot) differs(prev *Snapshot) bool {
	for t := range transitions(prev, s) {
		if t.roleOrStatusChanged() || t.old.noReads() != t.new.noReads() {
			return true
		}
	}
	return s.closed != prev.closed || s.paused != prev.paused || s.refused != prev.refused
}
