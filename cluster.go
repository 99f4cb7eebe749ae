package hasql

import (
	"context"
	"sync/atomic"
	"time"
)

// cluster owns the view of all nodes. Monitors send it observations; it alone reduces them to snapshots, publishes
// these and wakes who waits, so readers never lock and every snapshot follows from the one before.
type cluster struct {
	current      atomic.Pointer[Snapshot]
	observations chan observation
	forgets      chan struct{} // each asks to forget what is known
	done         chan struct{} // closed when run has ended

	rules rules
	// apply is told of every change from run's goroutine, after it was published. It must not block.
	apply func(prev, next *Snapshot)
}

func newCluster(nodes []NodeState, now time.Time, rules rules, apply func(prev, next *Snapshot)) *cluster {
	c := &cluster{
		observations: make(chan observation),
		forgets:      make(chan struct{}),
		done:         make(chan struct{}),
		rules:        rules,
		apply:        apply,
	}
	c.current.Store(&Snapshot{
		nodes: nodes, at: now, lostAt: now, incumbent: -1,
		changed: make(chan struct{}), next: make(chan struct{}),
	})
	return c
}

func (c *cluster) snapshot() *Snapshot { return c.current.Load() }

// observe hands over a piece of evidence. It returns false, and has done nothing, if the cluster is closed.
func (c *cluster) observe(o observation) bool {
	select {
	case c.observations <- o:
		return true
	case <-c.done:
		return false
	}
}

// forget has everything forgotten that was observed before. It does nothing if the cluster is closed.
func (c *cluster) forget() {
	select {
	case c.forgets <- struct{}{}:
	case <-c.done:
	}
}

// run reduces observations until ctx ends, then publishes the terminal snapshot.
func (c *cluster) run(ctx context.Context) {
	defer close(c.done)
	for {
		select {
		case o := <-c.observations:
			prev := c.snapshot()
			if next := reduce(prev, o, c.rules); next != prev {
				c.publish(prev, next)
			}
		case <-c.forgets:
			prev := c.snapshot()
			c.publish(prev, prev.forget(time.Now()))
		case <-ctx.Done():
			prev := c.snapshot()
			c.publish(prev, prev.end(time.Now()))
			return
		}
	}
}

// publish makes next the current snapshot. The order matters: who is woken by prev's channels finds next.
func (c *cluster) publish(prev, next *Snapshot) {
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
	c.apply(prev, next)
}
