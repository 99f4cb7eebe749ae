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
	for i := range next.nodes {
		if n := next.nodes[i]; n.probe != prev.nodes[i].probe && pm.log.Core().Enabled(zap.DebugLevel) {
			pm.events.add(func() { pm.probed(n) })
		}
		if old, new := prev.nodes[i], next.nodes[i]; old.Role != new.Role || old.Status != new.Status {
			pm.events.add(func() { pm.nodeChanged(old, new) })
		}
		if old, new := prev.nodes[i].Report.Pooler, next.nodes[i].Report.Pooler; !old && new {
			name := next.nodes[i].Name
			pm.events.add(func() {
				pm.log.Warn("this node is reached through a connection pooler: probes and errors alone tell of its changes", zap.String("node", name))
			})
		}
		if old, new := prev.nodes[i].Report.Limited, next.nodes[i].Report.Limited; old == nil && new != nil {
			name := next.nodes[i].Name
			pm.events.add(func() {
				pm.log.Warn("the full probe was refused: this node's lag is unknown and it cannot be fenced",
					zap.String("node", name), zap.Error(new))
			})
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
	pm.events.add(func() { pm.masterChanged(was, is, gap) })
}

// master returns the node that is the master, or the zero NodeState.
func (s *Snapshot) master() NodeState {
	if s.incumbent >= 0 && s.nodes[s.incumbent].Role == RoleMaster {
		return s.nodes[s.incumbent]
	}
	return NodeState{}
}

func (pm *PoolManager) probed(n NodeState) {
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

// eventQueue runs what is added to it, one after the other, so that whoever adds never waits.
type eventQueue struct {
	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{} // capacity 1
}

func newEventQueue() *eventQueue { return &eventQueue{wake: make(chan struct{}, 1)} }

func (q *eventQueue) add(f func()) {
	q.mu.Lock()
	q.queue = append(q.queue, f)
	q.mu.Unlock()
	q.signal()
}

// close lets run return once it has run everything added before.
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

func (q *eventQueue) run(log *zap.Logger) {
	for range q.wake {
		q.mu.Lock()
		batch, closed := q.queue, q.closed
		q.queue = nil
		q.mu.Unlock()
		for _, f := range batch {
			q.call(f, log)
		}
		if closed {
			return
		}
	}
}

// call keeps a panic in a hook of the user's from ending the process with all its other work.
func (q *eventQueue) call(f func(), log *zap.Logger) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("hook panicked", zap.Any("panic", r), zap.Stack("stack"))
		}
	}()
	f()
}
