package hasqlhttp

import (
	"slices"
	"sync"
	"time"

	"github.com/pghasql/hasql"
)

// historySize is how many transitions a History keeps.
const historySize = 50

// History keeps the last 50 transitions of a PoolManager's nodes, for [WithHistory]. The zero value is ready for use. A
// History is safe for concurrent use.
type History struct {
	mu   sync.Mutex
	last []Transition // oldest first
}

// Transition is one change of a node's role or status.
type Transition struct {
	At   time.Time `json:"at"`
	Node string    `json:"node"`
	// Role and Status are the new ones, WasRole and WasStatus the old ones. The values are those of [Node].
	Role      string `json:"role"`
	Status    string `json:"status"`
	WasRole   string `json:"was_role"`
	WasStatus string `json:"was_status"`
	// Cause is why the new status is not up; "" if it is up.
	Cause string `json:"cause"`
	// NoMasterSeconds is how long no master was known before this node became the master; null for other transitions.
	NoMasterSeconds *float64 `json:"no_master_seconds"`
}

// Hooks returns hooks that record each transition and then call the hooks of next. Set the result as [hasql.Config.Hooks].
func (h *History) Hooks(next hasql.Hooks) hasql.Hooks {
	return hasql.JoinHooks(hasql.Hooks{
		NodeChanged:   h.record,
		MasterChanged: func(_, new hasql.NodeState, gap time.Duration) { h.recordGap(new.Name, gap) },
	}, next)
}

func (h *History) record(old, new hasql.NodeState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.last) == historySize {
		h.last = slices.Delete(h.last, 0, 1)
	}
	h.last = append(h.last, Transition{
		At: new.Since, Node: new.Name,
		Role: new.Role.String(), Status: new.Status.String(), WasRole: old.Role.String(), WasStatus: old.Status.String(),
		Cause: reason(new.Cause),
	})
}

// recordGap adds the time without a master to the transition that made a node the master. That transition was recorded just
// before.
func (h *History) recordGap(master string, gap time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, t := range slices.Backward(h.last) {
		if gap > 0 && t.Node == master {
			h.last[i].NoMasterSeconds = seconds(gap)
			return
		}
	}
}

// newestFirst returns a copy of the transitions.
func (h *History) newestFirst() []Transition {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := append([]Transition{}, h.last...)
	slices.Reverse(list)
	return list
}
