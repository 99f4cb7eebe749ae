package hasql

import (
	"slices"
	"time"
)

// Hooks are functions that are called when a node, the master or discovery changes. Each may be nil. They are called one at a time,
// in the order of events, from a goroutine of their own. A slow hook delays later hooks and [PoolManager.Close], but
// never routing. A hook must not call Close.
//
// As long as fewer than 1000 changes wait, each change is one call. From then on several changes of one node are merged
// into one call, from the old state of the first to the new state of the last. If these two are equal, there is no call.
// Changes of the master are merged in the same way. A warning in the log says how many changes were merged. So
// for each node the old Role and Status of a call always equal the new ones of the previous call, and the last call shows
// the present.
type Hooks struct {
	// NodeChanged is called when the Role or Status of a node has changed.
	NodeChanged func(old, new NodeState)

	// MasterChanged is called when a node has become the master, and when there is no master any more. In the second case
	// new is the zero NodeState. old is the last master with its last known state, or the zero NodeState if there was
	// none. gap is how long no master was known before new.
	MasterChanged func(old, new NodeState, gap time.Duration)

	// DiscoveryChanged is called when the answers of [Config.Discoverer] begin to fail, when they fail for another reason, and,
	// with nil, when there is a good one again. Without a good answer the nodes stay as they are.
	DiscoveryChanged func(err error)
}

// JoinHooks returns hooks that call the hooks of each in turn.
func JoinHooks(each ...Hooks) Hooks {
	each = slices.Clone(each)
	return Hooks{
		NodeChanged: func(old, new NodeState) {
			for _, h := range each {
				if h.NodeChanged != nil {
					h.NodeChanged(old, new)
				}
			}
		},
		MasterChanged: func(old, new NodeState, gap time.Duration) {
			for _, h := range each {
				if h.MasterChanged != nil {
					h.MasterChanged(old, new, gap)
				}
			}
		},
		DiscoveryChanged: func(err error) {
			for _, h := range each {
				if h.DiscoveryChanged != nil {
					h.DiscoveryChanged(err)
				}
			}
		},
	}
}
