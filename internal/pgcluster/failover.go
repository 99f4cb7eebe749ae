package pgcluster

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// Elect detaches running standbys from their master, all at once, and returns them in the order of the WAL that they have
// received, the most first. Standbys that have received the same stay in the order of the arguments. From then on the old
// master, if it lives, gets no acknowledgement from them. So under synchronous replication the first standby has every
// acknowledged write. A standby stays detached until [Node.TakeOver], [Node.Follow] or [Node.Rejoin] gives it a master.
func Elect(ctx context.Context, standbys ...*Node) (ranked []*Node, err error) {
	var mu sync.Mutex
	received := make(map[*Node]uint64)
	err = each(standbys, func(n *Node) error {
		position, err := n.Detach(ctx)
		mu.Lock()
		defer mu.Unlock()
		received[n] = position
		return err
	})
	if err != nil {
		return nil, err
	}
	ranked = slices.Clone(standbys)
	slices.SortStableFunc(ranked, func(a, b *Node) int { return cmp.Compare(received[b], received[a]) })
	return ranked, nil
}

// TakeOver promotes a standby, returns once it takes writes, and makes other standbys follow it. It does not wait until
// they stream: see [Node.WaitStreaming].
func (n *Node) TakeOver(ctx context.Context, others ...*Node) error {
	if err := n.Promote(ctx); err != nil {
		return err
	}
	for _, other := range others {
		if err := other.Follow(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// Failover does what a failover manager does once the master is gone: it elects the standby that has received the most WAL
// ([Elect]), promotes it, and makes the others follow it ([Node.TakeOver]). There must be at least one standby. ranked is
// the new master, then its standbys. The old master, if it comes back, needs [Node.Rejoin].
func Failover(ctx context.Context, standbys ...*Node) (ranked []*Node, err error) {
	if ranked, err = Elect(ctx, standbys...); err != nil {
		return nil, err
	}
	return ranked, ranked[0].TakeOver(ctx, ranked[1:]...)
}
