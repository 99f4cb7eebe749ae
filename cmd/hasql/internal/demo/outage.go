package demo

import (
	"fmt"
	"slices"
	"time"

	"github.com/pghasql/hasql/internal/workload"
)

// fault is a fault that the demo caused.
type fault struct {
	kind string
	node int
	at   time.Duration
}

// outage is a period in which the application could not write.
type outage struct {
	kind string
	workload.Outage
}

// Kinds of outages that the demo did not cause.
const (
	kindFailover = "failover"
	kindPause    = "pause"
)

// faultTail is how long a node may acknowledge writes after its fault began, as it does during a fast stop.
const faultTail = 3 * time.Second

// kindOfGap returns the last fault of the old master before the end of the gap, unless the fault was long before the gap.
// Without such a fault it returns kindFailover or kindPause.
func kindOfGap(g workload.Gap, faults []fault) string {
	for _, f := range slices.Backward(faults) {
		if f.node == g.Before.Node && g.Before.Done-faultTail <= f.at && f.at <= g.After.Done {
			return f.kind
		}
	}
	if g.Moved() {
		return kindFailover
	}
	return kindPause
}

// describe returns a sentence about the outage.
func (o outage) describe(nodes []string) string {
	where := "on " + nodes[o.After.Node]
	if o.Before.Node != o.After.Node {
		where = nodes[o.Before.Node] + " → " + nodes[o.After.Node]
	}
	text := fmt.Sprintf("application writes again after %s, %s", Millis(o.Length()), where)
	if o.ClusterKnown {
		text += fmt.Sprintf(" (cluster: %s)", Millis(o.Cluster))
	}
	return text
}
