package hasql

import (
	"context"
	"iter"
	"sync/atomic"
	"time"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/pgerr"
)

// storeSettings are the settings that a clusterStore uses.
type storeSettings struct {
	rules          ruleSettings
	recentProbeAge time.Duration // an acquire that waits asks for no probe of a node that was probed less than this ago
}

// clusterStore is the only writer of snapshots. Monitors, and the methods by which users change the cluster, send changes to
// it. It makes snapshots from these changes, publishes them and wakes the waiters. So readers never lock, and every snapshot
// follows from the one before.
type clusterStore struct {
	current  atomic.Pointer[Snapshot]
	changes  chan change
	done     chan struct{} // closed when run has ended
	settings storeSettings

	discovery     atomic.Pointer[DiscoveryStat]
	followers     followers        // pools that follow a route
	history       evidence.History // what was seen of the servers' lives
	marks         marks
	tracing       tracing
	counts        counts
	lastGuestMove atomic.Int64 // nanoseconds since epoch: when a guest last made room for one on another node, 0 if none did
}

// newCluster makes a cluster without nodes.
func newCluster(now time.Time, settings storeSettings) *clusterStore {
	c := &clusterStore{changes: make(chan change), done: make(chan struct{}), settings: settings}
	c.current.Store(&Snapshot{at: now, noMasterSince: now, changed: make(chan struct{}), next: make(chan struct{})})
	c.discovery.Store(new(DiscoveryStat))
	return c
}

func (c *clusterStore) snapshot() *Snapshot { return c.current.Load() }

// tell sends a change. It returns true once run has received the change. If the cluster is closed it does nothing and
// returns false.
func (c *clusterStore) tell(what change) bool {
	select {
	case c.changes <- what:
		return true
	case <-c.done:
		return false
	}
}

// run applies changes until ctx ends, then publishes the terminal snapshot. After the publication it yields each new
// snapshot, with the one before it, to the caller, which must not block.
func (c *clusterStore) run(ctx context.Context) iter.Seq2[*Snapshot, *Snapshot] {
	return func(yield func(prev, next *Snapshot) bool) {
		defer close(c.done)
		for ended := false; !ended; {
			prev := c.snapshot()
			next := prev
			select {
			case what := <-c.changes:
				c.remember(what)
				next = reduce(prev, what, c.settings.rules)
			case <-ctx.Done():
				next, ended = prev.end(time.Now()), true
			}
			if next == prev {
				continue
			}
			c.publish(prev, next)
			if !yield(prev, next) {
				return
			}
		}
	}
}

// remember notes what a change says about the lives of servers, before anybody can act on it.
func (c *clusterStore) remember(what change) {
	switch o := what.(type) {
	case forgetOrder:
		c.history.Forget()
	case observation:
		switch r := o.report; {
		case r == nil && !pgerr.IsNoServer(o.cause):
			c.history.Lost(o.node.id())
		case r != nil && !r.InRecovery && r.Timeline == 0:
			c.history.Lost(o.node.id())
		case r != nil && !r.InRecovery:
			c.history.Seen(o.node.id(), r.life(), r.BranchedFrom, 0)
		}
	}
}

// publish makes next the current snapshot. The order matters: a goroutine that is woken by prev's channels must find next.
func (c *clusterStore) publish(prev, next *Snapshot) {
	differs := next.differs(prev)
	next.next = make(chan struct{})
	if differs {
		next.changed = make(chan struct{})
	}
	c.current.Store(next)
	close(prev.next)
	if differs {
		close(prev.changed)
	}
}
