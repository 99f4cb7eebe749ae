package evidence

import (
	"math"
	"sync"
)

// History is what this process has seen of the servers' lives. It is safe for concurrent use. The zero value is empty.
type History struct {
	mu       sync.Mutex
	nodes    map[string]*record
	branches map[uint32]branch // by timeline
}

// record is what is known of the lives of one node.
type record struct {
	life       Life   // the last life that was seen; zero if none was
	flushed    uint64 // a position in the WAL of life that is known to be on disk
	outOfSight bool   // whether Lost was called since life was seen last

	previousLife    Life   // the life that was seen before life
	previousFlushed uint64 // a position in the WAL of previousLife that is known to be on disk
	followsDirectly bool   // whether no other life was between the two: the node was never out of sight
}

// branch is where a timeline begins.
type branch struct {
	node      string // that was promoted
	parent    uint32 // the timeline that it branched off from
	at        uint64
	ambiguous bool // whether two promotions to this timeline were seen
}

// Seen notes the life of a node that is out of recovery. If the same session has seen the end of a recovery, parent is the timeline
// of that recovery, else 0. It is also 0 if the session does not know that timeline. flushed is a position in the WAL that is on
// disk, 0 if unknown.
func (h *History) Seen(node string, life Life, parent uint32, flushed uint64) {
	if life.Timeline == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.of(node)
	if r.life != life {
		*r = record{life: life, previousLife: r.life, previousFlushed: r.flushed, followsDirectly: !r.outOfSight}
	}
	r.outOfSight = false
	r.flushed = max(r.flushed, flushed)
	if parent != 0 && parent+1 == life.Timeline && life.Recovered != 0 {
		h.noteBranch(life.Timeline, branch{node: node, parent: parent, at: life.Recovered})
	}
}

// noteBranch notes where a timeline begins. The caller has the lock.
func (h *History) noteBranch(timeline uint32, b branch) {
	old, known := h.branches[timeline]
	switch {
	case !known && h.branches == nil:
		h.branches = map[uint32]branch{timeline: b}
	case !known:
		h.branches[timeline] = b
	case old.node != b.node || old.at != b.at:
		old.ambiguous = true
		h.branches[timeline] = old
	}
}

// Flushed notes a position in the WAL of a node's life that is on disk.
func (h *History) Flushed(node string, life Life, position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.nodes[node]; r != nil && r.life == life {
		r.flushed = max(r.flushed, position)
	}
}

// Lost notes that a node did not answer, or did not tell its timeline. So the node may have another life meanwhile. A node
// that is seen to be down, or in recovery, has no life, so Lost is not called for it.
func (h *History) Lost(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(node).outOfSight = true
}

// Forget forgets everything.
func (h *History) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes, h.branches = nil, nil
}

// of returns the record of a node, and makes one if there is none. The caller has the lock.
func (h *History) of(node string) *record {
	r := h.nodes[node]
	if r == nil {
		if h.nodes == nil {
			h.nodes = make(map[string]*record)
		}
		r = new(record)
		h.nodes[node] = r
	}
	return r
}

// commonEnd returns the position up to which the WAL of the trace's life is part of the history of the node that answers, or why
// that is not known.
func (h *History) commonEnd(t Trace, a Answer) (common uint64, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept, known := h.of(t.Node).keptUpTo(t)
	if a.Life.Timeline == t.Life.Timeline { // its server has been restarted
		if !known || h.of(t.Node).life != a.Life {
			return 0, "the master has been restarted, perhaps more than once"
		}
		if a.Life.Recovered == 0 { // a restart in order loses nothing
			return kept, ""
		}
		return min(kept, a.Life.Recovered), ""
	}
	if !known {
		return 0, "the old master may have been restarted before the new one took over"
	}
	branchedAt, why := h.branchPoint(t.Life.Timeline, a)
	return min(kept, branchedAt), why
}

// keptUpTo returns the position up to which no later life on the same timeline has written over the WAL of the trace's life. That
// is everywhere if no life followed on the timeline, or if the trace's record was on disk. Otherwise it is where the recovery of
// the next life ended.
func (r *record) keptUpTo(t Trace) (to uint64, known bool) {
	const everywhere = math.MaxUint64
	switch {
	case t.Life == r.life:
		return everywhere, !r.outOfSight || r.flushed >= t.LSN
	case t.Life != r.previousLife:
		return 0, false
	case r.previousFlushed >= t.LSN, r.followsDirectly && r.life.Timeline != t.Life.Timeline:
		return everywhere, true
	}
	return r.life.Recovered, r.followsDirectly && r.life.Recovered != 0
}

// branchPoint walks from the timeline of the answer down to the one that branched off from the trace's timeline, and returns where
// that one begins. The caller has the lock.
func (h *History) branchPoint(timeline uint32, a Answer) (at uint64, why string) {
	for t := a.Life.Timeline; t > timeline; {
		b, known := h.branches[t]
		switch {
		case !known, t == a.Life.Timeline && b.node != a.Node:
			return 0, "nobody has seen the promotion of the master"
		case b.ambiguous:
			return 0, "two nodes were promoted to one timeline"
		}
		t, at = b.parent, b.at
	}
	return at, ""
}
