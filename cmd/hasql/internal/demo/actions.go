package demo

import (
	"context"
	"fmt"
	"slices"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

// Actions on a cluster that the demo itself started. The script and the page's buttons use them.
const (
	actionCrash      = "crash"
	actionFreeze     = "freeze"
	actionThaw       = "thaw"
	actionRepair     = "repair"
	actionSwitchover = "switchover"
)

// offers returns the actions that are possible now, for the cluster and for each node. busy is the action that is running.
func (m *failoverManager) offers() (busy string, cluster []string, nodes [][]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	nodes = make([][]string, len(m.nodes))
	if m.busy != "" {
		return m.busy, nil, nodes
	}
	well := m.health[m.master] == healthy
	if well && len(m.replicasLocked()) > 0 && !slices.Contains(m.health, frozen) { // a fast stop would wait for the frozen node
		cluster = []string{actionSwitchover}
	}
	for i, h := range m.health {
		mendable := well || i == m.master
		switch {
		case h == healthy && !m.superseded[i]:
			nodes[i] = []string{actionCrash, actionFreeze}
		case h == healthy && well:
			nodes[i] = []string{actionCrash, actionFreeze, actionRepair}
		case h == frozen && mendable:
			nodes[i] = []string{actionThaw, actionRepair}
		case h == frozen:
			nodes[i] = []string{actionThaw}
		case h == crashed && mendable:
			nodes[i] = []string{actionRepair}
		}
	}
	return "", cluster, nodes
}

// begin starts an action that is on offer and does not wait for its end. It calls done with the result.
func (m *failoverManager) begin(ctx context.Context, action, name string, done func(error)) error {
	_, cluster, nodes := m.offers()
	node := slices.Index(m.names, name)
	offered := slices.Contains(cluster, action)
	if node >= 0 {
		offered = slices.Contains(nodes[node], action)
	}
	if !offered || !m.acting.TryLock() {
		return fmt.Errorf("%s %s: %w", action, name, dashboard.ErrRefused)
	}
	m.begun.Go(func() {
		defer m.acting.Unlock()
		done(m.do(ctx, action, node))
	})
	return nil
}

// act waits until no other action runs, then runs one.
func (m *failoverManager) act(ctx context.Context, action string, node int) error {
	m.acting.Lock()
	defer m.acting.Unlock()
	return m.do(ctx, action, node)
}

// do runs an action. The caller holds acting, so no other action runs.
func (m *failoverManager) do(ctx context.Context, action string, node int) error {
	m.set(func() { m.busy = action })
	defer m.set(func() { m.busy = "" })
	ctx, cancel := context.WithTimeoutCause(ctx, actLimit, fmt.Errorf("%s did not end within %v", action, actLimit))
	defer cancel()
	var err error
	switch action {
	case actionCrash:
		err = m.crash(ctx, node)
	case actionFreeze:
		err = m.freeze(ctx, node)
	case actionThaw:
		err = m.thaw(ctx, node)
	case actionRepair:
		err = m.repair(ctx, node)
	case actionSwitchover:
		err = m.switchover(ctx)
	}
	return orCause(ctx, err)
}
