package hasql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// BanOptions are the options of [PoolManager.Ban] and [PoolManager.Drain].
type BanOptions struct {
	// Reason appears in logs and errors. The default is "by an operator".
	Reason string
	// Duration is how long the ban lasts. With the default, 0, it lasts until [PoolManager.Unban].
	Duration time.Duration
	// Force allows the ban of the last node that is up in its role. Then all work for that role waits.
	Force bool
}

// SetNodes replaces the list of the cluster's nodes, and sets their order. A node is identified by its host, port and
// hostaddr. A node that is known already keeps its pool and its settings, and takes over name, zone and tags. A new node
// is unknown at first, is probed at once, and reaches its full share of reads after a few seconds. A node that is no
// longer listed gets no new acquires. Its connections in use are left alone, and it leaves when the last of them has been
// released. The master stays in service, listed or not, until another node is the master.
//
// A new node whose system identifier differs from the cluster's is foreign, even if it is listed, until
// [PoolManager.ForgetCluster].
//
// SetNodes does not wait for any server. It copies nodes, and uses ctx as [NewWithConfig] does. An empty or invalid list
// is refused with a [*ConfigError] and changes nothing. After Close the error is [ErrClosed]. If there is a
// [Config.Discoverer], its next answer replaces the list again.
func (pm *PoolManager) SetNodes(ctx context.Context, nodes []NodeConfig) error {
	config := *pm.config
	config.Nodes = nodes
	config = *config.Copy()
	config.setDefaults()
	problems := config.problems()
	if len(nodes) == 0 {
		problems = append(problems, "Nodes is empty")
	}
	if len(problems) > 0 {
		return &ConfigError{Problems: unique(problems)}
	}
	listed := make([]listedNode, len(config.Nodes))
	for i, c := range config.Nodes {
		listed[i] = listedNode{c.address(), c.label(), func() (NodeConfig, error) { return c, nil }}
	}
	return pm.setMembers(ctx, listed)
}

// Ban takes a node out of service: the node gets no new acquires. Its connections in use are left alone, and idle ones
// are closed. The node is still probed, so that it can be fenced. A second ban replaces the first. The ban also stands
// after the node has left the list and come back. The last node that is up in its role is banned only with Force; to hold
// writes back use [PoolManager.Pause]. Ban does not wait. Its error says that there is no such node or why the node is not
// banned; after Close it is [ErrClosed].
func (pm *PoolManager) Ban(name string, options BanOptions) error {
	if options.Duration < 0 {
		return fmt.Errorf("hasql: Ban: the duration must not be negative: %v", options.Duration)
	}
	if options.Reason == "" {
		options.Reason = "by an operator"
	}
	pm.operating.Lock()
	defer pm.operating.Unlock()
	n, err := pm.named(name)
	switch {
	case err != nil:
		return err
	case n.Status.usable() && pm.Snapshot().count(n.Role) == 1 && !options.Force:
		return fmt.Errorf("hasql: %s is not banned: no other %s is up; set BanOptions.Force to ban it nevertheless", name, n.Role)
	}
	b, now := &ban{reason: options.Reason}, time.Now()
	if options.Duration > 0 {
		b.until = now.Add(options.Duration)
	}
	return pm.orderOf(n, b, now)
}

// Unban lifts a ban. Without a ban it does nothing and returns no error.
func (pm *PoolManager) Unban(name string) error {
	pm.operating.Lock()
	defer pm.operating.Unlock()
	n, err := pm.named(name)
	if err != nil {
		return err
	}
	return pm.orderOf(n, nil, time.Now())
}

// Drain bans a node as [PoolManager.Ban] does, and waits until none of its connections is in use. If ctx ends before, its
// error says how many still are, and the ban stands. It is an error if the ban ends meanwhile, by its Duration or an Unban.
func (pm *PoolManager) Drain(ctx context.Context, name string, options BanOptions) error {
	if err := pm.Ban(name, options); err != nil {
		return err
	}
	n, err := pm.named(name)
	if err != nil {
		return err
	}
	left, err := pm.awaitIdle(ctx, func(s *Snapshot) (inUse int, stands bool) {
		now := s.state(n.node)
		return n.node.pool.Busy(), now == nil || now.ban != nil
	})
	switch {
	case err == errNoOrder:
		return fmt.Errorf("hasql: %s is not banned any more, with %d of its connections in use", name, left)
	case err != nil && err != ErrClosed:
		return fmt.Errorf("hasql: %d connections to %s are still in use: %w", left, name, err)
	}
	return err
}

// Pause holds back every acquire that would get a connection to a master, whichever node that is, and waits until no
// connection to a master is in use. Acquires wait until [PoolManager.Resume], within their budget; reads go to replicas.
// So a switchover that follows finds no transaction that it could break. If ctx ends before the last connection was
// released, the error says how many are in use, and there is no pause any more. It is an error if the pause
// ends meanwhile: by a Resume, by a Pause at the same time that fails, or by the duration of a [PoolManager.PauseFor].
func (pm *PoolManager) Pause(ctx context.Context) error {
	return pm.pause(ctx, time.Time{})
}

// PauseFor does what [PoolManager.Pause] does, and the pause ends by itself with the first probe after the duration: for an
// order from another process, which may be gone before it gives the order to resume. Of two pauses the one that ends later
// counts. A duration that is not positive is an error.
func (pm *PoolManager) PauseFor(ctx context.Context, duration time.Duration) error {
	if duration <= 0 {
		return fmt.Errorf("hasql: PauseFor: the duration must be positive: %v", duration)
	}
	return pm.pause(ctx, time.Now().Add(duration))
}

func (pm *PoolManager) pause(ctx context.Context, until time.Time) error {
	if !pm.applyAndWait(pauseOrder{true, until, time.Now()}) {
		return ErrClosed
	}
	pm.log.Info("paused: nobody gets a connection to the master", zap.Time("until", until))
	left, err := pm.awaitIdle(ctx, func(s *Snapshot) (inUse int, stands bool) {
		for i := range s.nodes {
			if n := &s.nodes[i]; n.Report.Role == RoleMaster && !n.Status.fenced() { // also one that is suspect or banned
				inUse += n.node.pool.Busy()
			}
		}
		return inUse, s.paused
	})
	switch {
	case err == errNoOrder:
		return fmt.Errorf("hasql: not paused: the pause has ended, with %d connections to the master in use", left)
	case err != nil && err != ErrClosed:
		pm.Resume()
		return fmt.Errorf("hasql: not paused: %d connections to the master are still in use: %w", left, err)
	}
	return err
}

// Resume ends a pause. Without a pause it does nothing.
func (pm *PoolManager) Resume() {
	if pm.Snapshot().paused && pm.applyAndWait(pauseOrder{on: false, at: time.Now()}) {
		pm.log.Info("resumed")
	}
}

// Paused reports whether [PoolManager.Pause] holds back acquires of the master.
func (s *Snapshot) Paused() bool { return s.paused }

func (pm *PoolManager) named(name string) (NodeState, error) {
	s := pm.Snapshot()
	n, known := s.Node(name)
	switch {
	case s.closed:
		return n, ErrClosed
	case !known:
		return n, fmt.Errorf("hasql: there is no node %q", name)
	}
	return n, nil
}

func (pm *PoolManager) orderOf(n NodeState, b *ban, now time.Time) error {
	if !pm.applyAndWait(banOrder{n.node, b, now}) {
		return ErrClosed
	}
	if b != nil {
		pm.log.Info("node was banned", zap.String("node", n.Name), zap.String("reason", b.reason), zap.Time("until", b.until))
	} else {
		pm.log.Info("the ban of a node was lifted", zap.String("node", n.Name))
	}
	return nil
}

// idlePoll is how often Drain and Pause look whether connections are still in use. A notification for each release would
// cost every acquire.
const idlePoll = 10 * time.Millisecond

// errNoOrder is an order that was lifted while somebody waited for what it brings about.
var errNoOrder = errors.New("the order does not stand any more")

// awaitIdle waits until nothing is in use while the operator's order stands, or until ctx ends. An error comes with how much is
// in use. look must count after it has seen that the order stands: an acquire is counted before it looks at orders.
func (pm *PoolManager) awaitIdle(ctx context.Context, look func(*Snapshot) (inUse int, stands bool)) (left int, err error) {
	ticker := time.NewTicker(idlePoll)
	defer ticker.Stop()
	for {
		s := pm.Snapshot()
		left, stands := look(s)
		switch {
		case s.closed:
			return left, ErrClosed
		case !stands:
			return left, errNoOrder
		case left == 0:
			return 0, nil
		case ctx.Err() != nil:
			return left, context.Cause(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
