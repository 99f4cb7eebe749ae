package hasql

import (
	"time"

	"go.uber.org/zap"

	"github.com/pghasql/hasql/internal/pgerr"
)

// reporter passes changes to the log and the hooks, in its own goroutine.
type reporter struct {
	queue *eventQueue
	log   *zap.Logger
	hooks Hooks

	outages *outages
}

func newReporter(log *zap.Logger, hooks Hooks, counts *counts) *reporter {
	return &reporter{newEventQueue(), log, hooks, &outages{counts: counts}}
}

// run announces changes until close was called and everything before that was announced.
func (r *reporter) run() { r.queue.run(r.tell, r.log) }

// close lets run return.
func (r *reporter) close() {
	if o := r.outages.end(); o != nil {
		r.queue.add(announcement{what: outageOver, outage: o})
	}
	r.queue.close()
}

// announce queues what changed from prev to next for the log and the hooks. It runs in the goroutine of clusterStore.run,
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
		switch {
		case t.roleOrStatusChanged():
			r.queue.add(announcement{what: nodeChanged, old: *old, new: *new})
		case failsAnew(old, new):
			r.queue.add(announcement{what: nodeFailed, new: *new})
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
	if over := r.outages.settle(prev, next); over != nil {
		r.queue.add(announcement{what: outageOver, outage: over})
	}
	r.announceMaster(prev, next)
	if r.outages.remind(next) {
		r.queue.add(announcement{what: masterMissing, seen: next})
	}
}

func (r *reporter) announceMaster(prev, next *Snapshot) {
	was, is := prev.master(), next.master()
	if was.node == is.node {
		return
	}
	var gap time.Duration
	if is.Name != "" && !prev.noMasterSince.IsZero() {
		gap = next.at.Sub(prev.noMasterSince)
		if n := prev.incumbentState(); n != nil {
			was = *n
		}
	}
	if was.Name != "" || r.outages.present != nil {
		r.outages.follow(was.Name, is.Name, gap, next.at)
	}
	r.queue.add(announcement{what: masterChanged, old: was, new: is, gap: gap})
}

// failsAnew reports whether a node that was not usable before fails for the first time, or for another reason than the server gave
// before.
func failsAnew(old, new *NodeState) bool {
	if new.answered || !new.probed() {
		return false
	}
	code := pgerr.SQLState(new.Cause)
	return !old.probed() || code != "" && code != pgerr.SQLState(old.Cause)
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
	case nodeFailed:
		r.notUsable(&a.new)
	case masterMissing:
		r.masterMissing(a.seen)
	case outageOver:
		r.outageOver(a.outage)
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
	change := []zap.Field{zap.Stringer("was_role", old.Role), zap.Stringer("was_status", old.Status)}
	switch {
	case new.Status == StatusUp:
		r.log.Info("node is up", append(change, zap.String("node", new.Name), zap.Stringer("role", new.Role),
			zap.Uint32("timeline", new.Report.Timeline))...)
	case old.probed() || new.Status != StatusSuspect:
		r.notUsable(&new, change...)
	}
	if hook := r.hooks.NodeChanged; hook != nil {
		hook(old, new)
	}
}

func (r *reporter) notUsable(n *NodeState, more ...zap.Field) {
	fields := append(more, zap.String("node", n.Name), zap.Stringer("status", n.Status), zap.Error(n.Cause))
	if advice := pgerr.Advice(n.Cause); advice != "" {
		fields = append(fields, zap.String("advice", advice))
	}
	r.log.Warn("node is not usable", fields...)
}

// masterMissing reminds of an outage that lasts.
func (r *reporter) masterMissing(s *Snapshot) {
	nodes := make([]string, len(s.nodes))
	for i := range s.nodes {
		nodes[i] = s.nodes[i].String()
	}
	fields := []zap.Field{
		zap.Duration("missing", s.at.Sub(s.noMasterSince)), zap.Int64("acquires_waiting", r.outages.counts.waits[TargetMaster].waiting()),
		zap.Strings("nodes", nodes),
	}
	if advice := adviceOn(s.nodes); advice != "" {
		fields = append(fields, zap.String("advice", advice))
	}
	r.log.Warn("no master", fields...)
}

func (r *reporter) outageOver(o *outage) {
	text := "failover is over"
	if o.was == o.is {
		text = "master is back"
	}
	r.log.Warn(text, zap.String("node", o.is), zap.String("was", o.was), zap.Duration("gap", o.gap),
		zap.Int64("connections_cut", o.cut), zap.Int64("statements_repeated", o.repeated),
		zap.Int64("acquires_waited", o.waited), zap.Duration("longest_wait", o.longest), zap.Int64("acquires_failed", o.failed))
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
