package hasql

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Hooks are functions that are told of transitions, each of which may be nil. They are called one at a time, in the
// order of events, from a goroutine of their own: a slow hook delays later hooks and [PoolManager.Close], never routing.
// A hook must not call Close.
//
// Each change is told as long as fewer than 1000 wait. From then on several changes of one node are told as one, from the
// old state of the first to the new state of the last, and not at all if these are the same; changes of the master
// likewise. A warning in the log says how many. So the old Role and Status of a call are always the new ones of the call
// before it for that node, and the last call shows the present.
type Hooks struct {
	// NodeChanged is called when a node's Role or Status has changed.
	NodeChanged func(old, new NodeState)

	// MasterChanged is called when a node has become the master, and when there is none any more: then new is the zero
	// NodeState. old is the last master there was, with what was last known of it, or the zero NodeState. gap is how
	// long no master was known before new.
	MasterChanged func(old, new NodeState, gap time.Duration)
}

// JoinHooks returns hooks that call those of each in turn.
func JoinHooks(each ...Hooks) Hooks {
	each = slices.Clone(each)
	return Hooks{
		NodeChanged: func(old, new NodeState) {
			for _, h := range each {
				if h.NodeChanged != nil {
					h.NodeChanged(old, new)
				}
			}
		},
		MasterChanged: func(old, new NodeState, gap time.Duration) {
			for _, h := range each {
				if h.MasterChanged != nil {
					h.MasterChanged(old, new, gap)
				}
			}
		},
	}
}

// announce tells the log, and through it the hooks, what is new in next. It runs in the cluster's goroutine, so it
// only queues.
func (pm *PoolManager) announce(prev, next *Snapshot) {
	probes := pm.log.Core().Enabled(zap.DebugLevel)
	for i := range next.nodes {
		old, new := &prev.nodes[i], &next.nodes[i]
		if probes && new.probe != old.probe {
			pm.events.add(announcement{what: nodeProbed, new: *new})
		}
		if old.Role != new.Role || old.Status != new.Status {
			pm.events.add(announcement{what: nodeChanged, old: *old, new: *new})
		}
		if !old.Report.Pooler && new.Report.Pooler {
			pm.events.add(announcement{what: poolerFound, new: *new})
		}
		if old.Report.Limited == nil && new.Report.Limited != nil {
			pm.events.add(announcement{what: probeLimited, new: *new})
		}
	}
	was, is := prev.master(), next.master()
	if was.Name == is.Name {
		return
	}
	var gap time.Duration
	if is.Name != "" && !prev.lostAt.IsZero() {
		gap = next.at.Sub(prev.lostAt)
		if prev.incumbent >= 0 {
			was = prev.nodes[prev.incumbent]
		}
	}
	pm.events.add(announcement{what: masterChanged, old: was, new: is, gap: gap})
}

// master returns the node that is the master, or the zero NodeState.
func (s *Snapshot) master() NodeState {
	if s.incumbent >= 0 && s.nodes[s.incumbent].Role == RoleMaster {
		return s.nodes[s.incumbent]
	}
	return NodeState{}
}

// tell tells one event. It runs in the queue's goroutine, and may take as long as a hook does.
func (pm *PoolManager) tell(a *announcement) {
	switch a.what {
	case nodeProbed:
		pm.nodeProbed(&a.new)
	case nodeChanged:
		pm.nodeChanged(a.old, a.new)
	case masterChanged:
		pm.masterChanged(a.old, a.new, a.gap)
	case poolerFound:
		pm.log.Warn("this node is reached through a connection pooler: probes and errors alone tell of its changes",
			zap.String("node", a.new.Name))
	case probeLimited:
		pm.log.Warn("the full probe was refused: this node's lag is unknown and it cannot be fenced",
			zap.String("node", a.new.Name), zap.Error(a.new.Report.Limited))
	}
}

func (pm *PoolManager) nodeProbed(n *NodeState) {
	pm.log.Debug("probe", zap.String("node", n.Name), zap.Stringer("status", n.Status), zap.Stringer("role", n.Role),
		zap.Uint32("timeline", n.Report.Timeline), zap.Stringer("lsn", n.Report.LSN), zap.Duration("latency", n.Latency),
		zap.Error(n.Cause))
}

func (pm *PoolManager) nodeChanged(old, new NodeState) {
	fields := []zap.Field{
		zap.String("node", new.Name),
		zap.Stringer("role", new.Role), zap.Stringer("was_role", old.Role),
		zap.Stringer("status", new.Status), zap.Stringer("was_status", old.Status),
	}
	switch {
	case new.Status == StatusUp:
		pm.log.Info("node is up", append(fields, zap.Uint32("timeline", new.Report.Timeline))...)
	case old.heard() || new.Status != StatusSuspect:
		pm.log.Warn("node is not usable", append(fields, zap.Error(new.Cause))...)
	}
	if hook := pm.config.Hooks.NodeChanged; hook != nil {
		hook(old, new)
	}
}

func (pm *PoolManager) masterChanged(was, is NodeState, gap time.Duration) {
	if is.Name == "" {
		pm.log.Warn("master lost", zap.String("node", was.Name))
	} else {
		pm.log.Info("master found", zap.String("node", is.Name), zap.String("was", was.Name), zap.Duration("gap", gap))
	}
	if hook := pm.config.Hooks.MasterChanged; hook != nil {
		hook(was, is, gap)
	}
}

// announcement is something to be told.
type announcement struct {
	what     topic
	old, new NodeState // of a node, or of the master
	gap      time.Duration
}

type topic uint8

const (
	nodeProbed topic = iota
	nodeChanged
	masterChanged
	poolerFound
	probeLimited
)

// follows reports whether a tells of what became of the same thing after b.
func (a *announcement) follows(b *announcement) bool {
	return a.what == b.what && (a.what == masterChanged || a.new.Name == b.new.Name)
}

// void reports whether a merged announcement ends where it began. A master that was lost and found again is news.
func (a *announcement) void() bool {
	switch a.what {
	case nodeChanged:
		return a.old.Role == a.new.Role && a.old.Status == a.new.Status
	case masterChanged:
		return a.old.Name == "" && a.new.Name == ""
	}
	return false
}

// maxWaiting is how many announcements of changes may wait, and how many probes for the log. From then on a change is merged
// with the one before it that tells of the same, and a probe is left out.
const maxWaiting = 1000

// eventQueue tells what is added to it, one after the other, so that whoever adds never waits. It is bounded: by
// maxWaiting for changes and for probes, and one more for each node and topic.
type eventQueue struct {
	mu     sync.Mutex
	queue  []*announcement
	probes int // of queue
	merged int // changes that were not told each by itself, since the last warning
	unsaid int // probes that were left out, since then
	closed bool
	wake   chan struct{} // capacity 1
}

func newEventQueue() *eventQueue { return &eventQueue{wake: make(chan struct{}, 1)} }

func (q *eventQueue) add(a announcement) {
	q.mu.Lock()
	q.addLocked(&a)
	q.mu.Unlock()
	q.signal()
}

func (q *eventQueue) addLocked(a *announcement) {
	switch {
	case a.what == nodeProbed && q.probes == maxWaiting:
		q.unsaid++
		return
	case a.what == nodeProbed:
		q.probes++
	case len(q.queue)-q.probes >= maxWaiting && q.mergeLocked(a):
		return
	}
	q.queue = append(q.queue, a)
}

// mergeLocked makes one announcement of a and the last that it follows, from the old state of that to the new one of a. It
// reports whether there was one.
func (q *eventQueue) mergeLocked(a *announcement) bool {
	for _, b := range slices.Backward(q.queue) {
		if a.follows(b) {
			b.new, b.gap = a.new, a.gap
			q.merged++
			return true
		}
	}
	return false
}

// close lets run return once it has told everything added before.
func (q *eventQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *eventQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) run(tell func(*announcement), log *zap.Logger) {
	for range q.wake {
		for a := q.next(log); a != nil; a = q.next(log) {
			told(tell, a, log)
		}
		if q.done() {
			return
		}
	}
}

// next takes the first announcement, or nil. It warns if some were lost.
func (q *eventQueue) next(log *zap.Logger) (a *announcement) {
	q.mu.Lock()
	a = q.takeLocked()
	for a != nil && a.void() {
		q.merged++
		a = q.takeLocked()
	}
	merged, unsaid := q.merged, q.unsaid
	q.merged, q.unsaid = 0, 0
	q.mu.Unlock()
	if merged+unsaid > 0 {
		log.Warn("the hooks or the log are too slow: changes were merged, probes left out of the log",
			zap.Int("changes", merged), zap.Int("probes", unsaid))
	}
	return a
}

func (q *eventQueue) takeLocked() *announcement {
	if len(q.queue) == 0 {
		return nil
	}
	a := q.queue[0]
	q.queue[0], q.queue = nil, q.queue[1:]
	if a.what == nodeProbed {
		q.probes--
	}
	return a
}

// done reports whether nothing comes any more.
func (q *eventQueue) done() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.queue) == 0
}

// told keeps a panic in a hook of the user's from ending the process with all its other work.
func told(tell func(*announcement), a *announcement, log *zap.Logger) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("hook panicked", zap.Any("panic", r), zap.Stack("stack"))
		}
	}()
	tell(a)
}
