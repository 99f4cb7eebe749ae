package hasql

import (
	"time"

	"go.uber.org/zap"
)

// reporter passes changes to the log and the hooks, in its own goroutine.
type reporter struct {
	queue *eventQueue
	log   *zap.Logger
	hooks Hooks
}

func newReporter(log *zap.Logger, hooks Hooks) *reporter {
	return &reporter{newEventQueue(), log, hooks}
}

// run announces changes until close was called and everything before that was announced.
func (r *reporter) run() { r.queue.run(r.tell, r.log) }

// close lets run return.
func (r *reporter) close() { r.queue.close() }

// announce queues what changed from prev to next for the log and the hooks. It runs in the goroutine of clusterView.run,
// so it must not block.
func (r *reporter) announce(prev, next *Snapshot) {
	probes := r.log.Core().Enabled(zap.DebugLevel)
	for t := range transitions(prev, next) {
		if t.joined() {
			if prev.Len() == 0 {
				continue // at the start
			}
			r.queue.add(announcement{what: nodeJoined, new: *t.new})
			continue
		}
		if t.left() {
			r.queue.add(announcement{what: nodeLeft, new: *t.old})
			continue
		}
		old, new := t.old, t.new
		if probes && t.probed() {
			r.queue.add(announcement{what: nodeProbed, new: *new})
		}
		if t.changed() {
			r.queue.add(announcement{what: nodeChanged, old: *old, new: *new})
		}
		if !old.Report.Pooler && new.Report.Pooler {
			r.queue.add(announcement{what: poolerFound, new: *new})
		}
		if old.Report.Limited == nil && new.Report.Limited != nil {
			r.queue.add(announcement{what: probeLimited, new: *new})
		}
	}
	if prev.pauseOver(next.at) && !next.paused {
		r.queue.add(announcement{what: pauseExpired})
	}
	was, is := prev.master(), next.master()
	if was.node == is.node {
		return
	}
	var gap time.Duration
	if is.Name != "" && !prev.lostAt.IsZero() {
		gap = next.at.Sub(prev.lostAt)
		if n := prev.incumbentState(); n != nil {
			was = *n
		}
	}
	r.queue.add(announcement{what: masterChanged, old: was, new: is, gap: gap})
}

// tell announces one event. It runs in the goroutine of the queue, and may take as long as a hook takes.
func (r *reporter) tell(a *announcement) {
	switch a.what {
	case nodeJoined:
		r.log.Info("node has joined", zap.String("node", a.new.Name))
	case nodeLeft:
		r.log.Info("node has left", zap.String("node", a.new.Name))
	case nodeProbed:
		r.nodeProbed(&a.new)
	case nodeChanged:
		r.nodeChanged(a.old, a.new)
	case masterChanged:
		r.masterChanged(a.old, a.new, a.gap)
	case poolerFound:
		r.log.Warn("a connection pooler stands before this node: only probes and errors show its changes",
			zap.String("node", a.new.Name))
	case discoveryChanged:
		r.discoveryChanged(a.err)
	case pauseExpired:
		r.log.Warn("the pause has ended by itself, as its time is over")
	case probeLimited:
		r.log.Warn("the full probe was refused: this node's lag is unknown and it cannot be fenced",
			zap.String("node", a.new.Name), zap.Error(a.new.Report.Limited))
	}
}

func (r *reporter) nodeProbed(n *NodeState) {
	r.log.Debug("probe", zap.String("node", n.Name), zap.Stringer("status", n.Status), zap.Stringer("role", n.Role),
		zap.Uint32("timeline", n.Report.Timeline), zap.Stringer("lsn", n.Report.LSN), zap.Duration("latency", n.Latency),
		zap.Error(n.Cause))
}

func (r *reporter) nodeChanged(old, new NodeState) {
	fields := []zap.Field{
		zap.String("node", new.Name),
		zap.Stringer("role", new.Role), zap.Stringer("was_role", old.Role),
		zap.Stringer("status", new.Status), zap.Stringer("was_status", old.Status),
	}
	switch {
	case new.Status == StatusUp:
		r.log.Info("node is up", append(fields, zap.Uint32("timeline", new.Report.Timeline))...)
	case old.probed() || new.Status != StatusSuspect:
		r.log.Warn("node is not usable", append(fields, zap.Error(new.Cause))...)
	}
	if hook := r.hooks.NodeChanged; hook != nil {
		hook(old, new)
	}
}

func (r *reporter) masterChanged(was, is NodeState, gap time.Duration) {
	if is.Name == "" {
		r.log.Warn("master lost", zap.String("node", was.Name))
	} else {
		r.log.Info("master found", zap.String("node", is.Name), zap.String("was", was.Name), zap.Duration("gap", gap))
	}
	if hook := r.hooks.MasterChanged; hook != nil {
		hook(was, is, gap)
	}
}

func (r *reporter) discoveryChanged(err error) {
	if err != nil {
		r.log.Warn("discovery failed: the nodes stay as they are", zap.Error(err))
	} else {
		r.log.Info("discovery has an answer again")
	}
	if hook := r.hooks.DiscoveryChanged; hook != nil {
		hook(err)
	}
}
