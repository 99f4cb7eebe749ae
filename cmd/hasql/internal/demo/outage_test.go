package demo

import (
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/workload"
)

const ms = time.Millisecond

// at is a write that took 1 ms.
func at(done time.Duration, node int, timeline uint32) workload.Ack {
	return workload.Ack{Sent: done - ms, Done: done, Node: node, Timeline: timeline}
}

func TestOutageIsPutDownToItsFault(t *testing.T) {
	t.Parallel()
	moved := workload.Gap{Before: at(990*ms, 0, 1), After: at(1350*ms, 1, 2)}
	later := workload.Gap{Before: at(5000*ms, 0, 3), After: at(5300*ms, 1, 4)}
	paused := workload.Gap{Before: at(990*ms, 0, 1), After: at(1350*ms, 0, 1)}
	tests := map[string]struct {
		gap    workload.Gap
		faults []fault
		want   string
	}{
		"a crash":        {moved, []fault{{"crash", 0, 991 * ms}}, "crash"},
		"nobody's fault": {moved, nil, kindFailover},
		"a pause":        {paused, nil, kindPause},
		"a shutdown in order goes on for a while": {moved, []fault{{"switchover", 0, 200 * ms}}, "switchover"},
		"the last of several faults": {
			moved, []fault{{"freeze", 0, 700 * ms}, {"crash", 0, 991 * ms}, {"freeze", 0, 1351 * ms}}, "crash",
		},
		"a fault without a failover": {paused, []fault{{"crash", 0, 991 * ms}}, "crash"},
		"a fault of another node":    {paused, []fault{{"crash", 1, 991 * ms}}, kindPause},
		"a fault of long ago":        {later, []fault{{"crash", 0, 991 * ms}}, kindFailover},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := kindOfGap(test.gap, test.faults); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestOutageInWords(t *testing.T) {
	t.Parallel()
	nodes := []string{"pg1", "pg2"}
	o := outage{Outage: workload.Outage{
		Gap: workload.Gap{Before: at(990*ms, 0, 1), After: at(1350*ms, 1, 2)}, Cluster: 355 * ms, ClusterKnown: true,
	}}
	const want = "application writes again after 360 ms, pg1 → pg2 (cluster: 355 ms)"
	if got := o.describe(nodes); got != want {
		t.Errorf("got %q", got)
	}
	o = outage{Outage: workload.Outage{Gap: workload.Gap{Before: at(990*ms, 0, 1), After: at(1350*ms, 0, 1)}}}
	if got := o.describe(nodes); got != "application writes again after 360 ms, on pg1" {
		t.Errorf("got %q", got)
	}
}
