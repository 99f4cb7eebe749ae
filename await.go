package hasql

import (
	"context"
	"slices"
	"time"
)

// await does the work of WaitFor. The error uses wanted as the name of what was waited for.
func (c *clusterStore) await(ctx context.Context, wanted string, done func(*Snapshot) bool) error {
	started := time.Now()
	for {
		s := c.snapshot()
		switch {
		case s.closed:
			return ErrClosed
		case done(s):
			return nil
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return c.noNode(ctx, c.snapshot(), wanted, started, nil)
		}
	}
}

// awaitChange waits until an acquire may get something else than with s, and asks for probes meanwhile.
func (c *clusterStore) awaitChange(ctx context.Context, s *Snapshot) {
	timer := time.NewTimer(c.requestChecks(s, c.settings.recentProbeAge))
	defer timer.Stop()
	for {
		select {
		case <-s.changed:
			return
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(c.requestChecks(c.snapshot(), c.settings.recentProbeAge))
		}
	}
}

// requestInterval is the least time between two probes of a node that waiting acquires ask for, unless CheckInterval is
// shorter or the acquires wait for a position. It is short enough for a caller with half a second, and long enough for a
// cluster that has no master for hours. One probe serves all waiting acquires.
const requestInterval = 250 * time.Millisecond

// requestChecks asks for a probe of each node that may come to fit, unless the node was probed less than lately ago. It
// returns the time until the first of these nodes is due for another request. A master needs no probe: it fits already, or
// it must first cease to be the master, which its monitor sees.
func (c *clusterStore) requestChecks(s *Snapshot, lately time.Duration) (nextRequestIn time.Duration) {
	nextRequestIn = lately
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.Role == RoleMaster {
			continue
		}
		if left := lately - time.Since(n.CheckedAt); left > 0 {
			nextRequestIn = min(nextRequestIn, left)
		} else if !n.node.checks.underWay.Load() {
			n.node.checks.checkNow()
		}
	}
	return nextRequestIn
}

// noNode makes the error of a wait that ended without success: with ctx, or because every node refuses the login.
func (c *clusterStore) noNode(ctx context.Context, s *Snapshot, wanted string, started time.Time, tried map[string]error) *NoNodeError {
	nodes := slices.Clone(s.nodes)
	for i := range nodes {
		nodes[i].node = nodes[i].node.frozen() // the numbers of this moment, not of the moment when the error is printed
	}
	err := &NoNodeError{
		Wanted:  wanted,
		Waited:  time.Since(started),
		Nodes:   nodes,
		Refused: s.refused,
		ended:   errRefused,
		tried:   tried,
		paused:  s.paused,
		finds:   *c.discovery.Load(),
	}
	if ctx.Err() != nil {
		err.ended, err.cause = ctx.Err(), context.Cause(ctx)
	}
	return err
}
