package hasql

import (
	"context"
	"time"
)

// setMembers makes the listed nodes the members of the cluster.
func (pm *PoolManager) setMembers(ctx context.Context, listed []listedNode) error {
	pm.operating.Lock()
	defer pm.operating.Unlock()
	for {
		members, joining, err := pm.assemble(ctx, listed)
		if err != nil {
			return err
		}
		order := membership{members, time.Now()}
		if !pm.applyAndWait(order) {
			endNodes(joining)
			return ErrClosed
		}
		if !order.namesDepartedNode(pm.cluster.snapshot()) {
			return nil
		}
		endNodes(joining) // a listed node has just left, so nothing was changed; the next round makes a new node for it
	}
}

// assemble returns the members for a list: the present nodes that it names, and new nodes for the rest, which it also
// returns apart.
func (pm *PoolManager) assemble(ctx context.Context, listed []listedNode) (members []member, joining []*node, err error) {
	members = pm.cluster.snapshot().membersLike(listed)
	var added []NodeConfig
	for i := range members {
		if m := &members[i]; m.node == nil {
			config, err := listed[i].config()
			if err != nil {
				return nil, nil, err
			}
			added, m.joins = append(added, config), true
		}
	}
	joining, err = newNodes(ctx, added)
	if err != nil {
		return nil, nil, &ConfigError{Problems: []string{err.Error()}}
	}
	rest := joining
	for i := range members {
		if m := &members[i]; m.joins {
			m.node, rest = rest[0], rest[1:]
		}
	}
	return members, joining, nil
}

// membersLike finds the present node for each listed one, or nil if there is none. If several nodes have one address, the
// name decides.
func (s *Snapshot) membersLike(listed []listedNode) []member {
	members := make([]member, len(listed))
	taken := make(map[*node]bool)
	for _, sameName := range []bool{true, false} {
		for i, l := range listed {
			for j := range s.nodes {
				n := &s.nodes[j]
				if members[i].node == nil && !taken[n.node] && n.node.address == l.server && (n.Name == l.label.name || !sameName) {
					members[i].node, taken[n.node] = n.node, true
				}
			}
			members[i].label = l.label
		}
	}
	return members
}

// applyAndWait sends a change to the cluster, and waits until every reader sees it. It returns false if the cluster is closed.
func (pm *PoolManager) applyAndWait(what change) bool {
	// The second change does nothing. It is accepted after the first one was published.
	return pm.cluster.tell(what) && pm.cluster.tell(banOrder{})
}
