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

// record is what is known of one node.
type record struct {
	life    Life   // out of recovery, the last that was seen; zero if none was
	flushed uint64 // a position up to which its WAL is known to be on disk
	dark    bool   // the node has been out of sight since life was seen last

	before   Life   // the life that was seen before that
	survived uint64 // flushed of it
	followed bool   // life has followed it, with none between: the node was not out of sight
}

// branch is where a timeline begins.
type branch struct {
	node   string
	parent uint32
	at     uint64
	torn   bool // two nodes have begun it
}

// Seen notes the life of a node that is out of recovery. parent is the timeline of the recovery whose end the same session has seen,
// 0 if it has seen none or does not know the timeline. flushed is a position in the WAL that is on disk, 0 if unknown.
func (h *History) Seen(node string, life Life, parent uint32, flushed uint64) {
	if life.Timeline == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.of(node)
	if r.life != life {
		*r = record{life: life, before: r.life, survived: r.flushed, followed: !r.dark}
	}
	r.dark = false
	r.flushed = max(r.flushed, flushed)
	if parent != 0 && parent+1 == life.Timeline && life.Recovered != 0 {
		h.branch(life.Timeline, branch{node: node, parent: parent, at: life.Recovered})
	}
}

// branch notes where a timeline begins. The caller has the lock.
func (h *History) branch(timeline uint32, b branch) {
	old, known := h.branches[timeline]
	switch {
	case !known && h.branches == nil:
		h.branches = map[uint32]branch{timeline: b}
	case !known:
		h.branches[timeline] = b
	case old.node != b.node || old.at != b.at:
		old.torn = true
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

// Lost notes that a node did not answer, which it may do while it has another life. A node that is seen to be down, or in
// recovery, has none: nobody needs to note that.
func (h *History) Lost(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(node).dark = true
}

// Forget forgets everything.
func (h *History) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes, h.branches = nil, nil
}

// of returns the record of a node. The caller has the lock.
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

// end returns the position up to which the WAL of the trace's life is part of the history of the node that answers, or why that
// is not known.
func (h *History) end(t Trace, a Answer) (end uint64, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept, known := h.of(t.Node).kept(t)
	if a.Life.Timeline == t.Life.Timeline { // its server has recovered from a crash
		if !known || h.of(t.Node).life != a.Life {
			return 0, "the master has been restarted, perhaps more than once"
		}
		return min(kept, a.Life.Recovered), ""
	}
	if !known {
		return 0, "the old master may have been restarted before the new one took over"
	}
	begin, why := h.root(t.Life.Timeline, a)
	return min(kept, begin), why
}

// kept returns up to where the WAL of the trace's life was the WAL of its timeline in the end: everywhere if that life was the
// last one on the timeline, or if the trace's record was on disk; else as far as the next life has recovered it.
func (r *record) kept(t Trace) (to uint64, known bool) {
	const everywhere = math.MaxUint64
	switch {
	case t.Life == r.life:
		return everywhere, !r.dark || r.flushed >= t.LSN
	case t.Life != r.before:
		return 0, false
	case r.survived >= t.LSN, r.followed && r.life.Timeline != t.Life.Timeline:
		return everywhere, true
	}
	return r.life.Recovered, r.followed && r.life.Recovered != 0
}

// root walks from the timeline of the answer down to the one that branched off from the trace's, and returns where that did.
// The caller has the lock.
func (h *History) root(timeline uint32, a Answer) (at uint64, why string) {
	for t := a.Life.Timeline; t > timeline; {
		b, known := h.branches[t]
		switch {
		case !known, t == a.Life.Timeline && b.node != a.Node:
			return 0, "nobody has seen the promotion of the master"
		case b.torn:
			return 0, "two nodes were promoted to one timeline"
		}
		t, at = b.parent, b.at
	}
	return at, ""
}
