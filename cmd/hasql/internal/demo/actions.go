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
func (k *keeper) offers() (busy string, cluster []string, nodes [][]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	nodes = make([][]string, len(k.nodes))
	if k.busy != "" {
		return k.busy, nil, nodes
	}
	well := k.health[k.master] == healthy
	if well && len(k.standbysLocked()) > 0 && !slices.Contains(k.health, frozen) { // a fast stop would wait for the frozen node
		cluster = []string{actionSwitchover}
	}
	for i, h := range k.health {
		mendable := well || i == k.master
		switch {
		case h == healthy && !k.superseded[i]:
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
func (k *keeper) begin(ctx context.Context, action, name string, done func(error)) error {
	_, cluster, nodes := k.offers()
	node := slices.Index(k.names, name)
	offered := slices.Contains(cluster, action)
	if node >= 0 {
		offered = slices.Contains(nodes[node], action)
	}
	if !offered || !k.acting.TryLock() {
		return fmt.Errorf("%s %s: %w", action, name, dashboard.ErrRefused)
	}
	k.begun.Go(func() {
		defer k.acting.Unlock()
		done(k.do(ctx, action, node))
	})
	return nil
}

// act waits until no other action runs, then runs one.
func (k *keeper) act(ctx context.Context, action string, node int) error {
	k.acting.Lock()
	defer k.acting.Unlock()
	return k.do(ctx, action, node)
}

// do runs an action. The caller holds acting, so no other action runs.
func (k *keeper) do(ctx context.Context, action string, node int) error {
	k.set(func() { k.busy = action })
	defer k.set(func() { k.busy = "" })
	ctx, cancel := context.WithTimeoutCause(ctx, actLimit, fmt.Errorf("%s did not end within %v", action, actLimit))
	defer cancel()
	var err error
	switch action {
	case actionCrash:
		err = k.crash(ctx, node)
	case actionFreeze:
		err = k.freeze(ctx, node)
	case actionThaw:
		err = k.thaw(ctx, node)
	case actionRepair:
		err = k.repair(ctx, node)
	case actionSwitchover:
		err = k.switchover(ctx)
	}
	return orCause(ctx, err)
}
