package hasql

import (
	"testing"
	"time"

	"go.uber.org/zap"
)

// observing returns a function that makes the snapshot after an answer of one of so many nodes, and queues its events.
func observing(nodes int) (observe func(node int, r Report)) {
	reporter := newReporter(zap.NewNop(), Hooks{}, new(counts))
	w := newWorld(nodes).unheard()
	now, probe := w.now, uint64(0)
	c := newCluster(now, storeSettings{})
	c.publish(c.snapshot(), w.s)
	observe = func(node int, r Report) {
		probe++
		now = now.Add(time.Millisecond)
		prev := c.snapshot()
		next := reduce(prev, observation{node: w.node(node), probe: probe, sent: now, at: now.Add(time.Microsecond), report: &r}, c.settings.rules)
		c.publish(prev, next)
		reporter.announce(prev, next)
	}
	for i := range nodes {
		observe(i, replica(1000))
	}
	return observe
}

// TestObservationCopiesNodesOnce counts allocations, of which there were several for each node.
func TestObservationCopiesNodesOnce(t *testing.T) {
	const nodes = 100
	observe := observing(nodes)
	i := 0
	for role, r := range map[string]Report{"master": master(1, 2000), "replica": replica(2000)} {
		allocs := testing.AllocsPerRun(200, func() {
			if i = i%(nodes-1) + 1; role == "master" {
				i = 0
			}
			observe(i, r)
		})
		if allocs > 20 {
			t.Errorf("the answer of a %s makes %v allocations among %d nodes", role, allocs, nodes)
		}
	}
}

// BenchmarkObservation is what one answer of one of 100 nodes costs the goroutine of the cluster, apart from the pools.
func BenchmarkObservation(b *testing.B) {
	const nodes = 100
	observe := observing(nodes)
	lsn := LSN(1000)
	b.Run("master", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			lsn++
			observe(0, master(1, lsn))
		}
	})
	b.Run("replica", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); {
			i = i%(nodes-1) + 1
			observe(i, replica(lsn))
		}
	})
}
