package hasql

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/nodepool"
)

// fleet makes candidates with the given latencies.
func fleet(latencies ...time.Duration) []Candidate {
	cs := make([]Candidate, len(latencies))
	for i, l := range latencies {
		load := nodepool.NewLoad(10)
		cs[i] = Candidate{NodeState: &NodeState{node: &node{load: load}}, Latency: l, load: load}
	}
	return indexed(cs)
}

// loaded is the load of a pool of that many connections of which so many are lent.
func loaded(limit, lent int) *nodepool.Load {
	load := nodepool.NewLoad(limit)
	for range lent {
		load.Take()
	}
	for range -lent { // a release may be counted before its acquire
		load.GiveBack()
	}
	return load
}

func equal(n int) []Candidate {
	return fleet(make([]time.Duration, n)...)
}

func shares(p Picker, cs []Candidate, picks int) []float64 {
	counts := make([]float64, len(cs))
	for range picks {
		counts[p.Pick(cs)]++
	}
	for i := range counts {
		counts[i] /= float64(picks)
	}
	return counts
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 0.02 { // 40,000 picks: about six standard deviations
		t.Errorf("%s: share %.3f, want %.3f", what, got, want)
	}
}

const picks = 40_000

func TestPickersAreFairAmongEquals(t *testing.T) {
	for name, picker := range balancers {
		if name == "nearest" || name == "first" {
			continue // they take the first of equals by contract
		}
		for _, n := range []int{2, 3, 7} {
			for i, share := range shares(picker(), equal(n), picks) {
				near(t, fmt.Sprintf("%s, node %d of %d", name, i, n), share, 1/float64(n))
			}
		}
	}
}

func TestPickersStayFairWhenMembershipChanges(t *testing.T) {
	for name, make := range balancers {
		if name == "nearest" || name == "first" {
			continue
		}
		picker := make()
		var counts [3]float64
		three, two := equal(3), equal(2)
		for i := range picks {
			cs := three
			if i%2 == 1 { // the third comes and goes: 1/3 of half of the picks are its own
				cs = two
			}
			counts[picker.Pick(cs)]++
		}
		if share := counts[2] / picks; share < 1.0/6-0.02 {
			t.Errorf("%s: the one that is there half of the time has %.3f", name, share)
		}
		near(t, name+", of those that stay", counts[0]/(counts[0]+counts[1]), 0.5)
	}
}

func TestRoundRobinGoesInOrder(t *testing.T) {
	r, cs := RoundRobin(), equal(3)
	for i := range 9 {
		if got := r.Pick(cs); got != i%3 {
			t.Fatalf("turn %d went to %d", i, got)
		}
	}
	if got := r.Pick(cs[1:]); got != 0 {
		t.Errorf("without node 0 the turn went to %d", got+1)
	}
	if got := r.Pick(cs); got != 0 {
		t.Errorf("node 0 came back and the turn went to %d", got)
	}
}

func TestGreedyTakesTheMostFree(t *testing.T) {
	cs := equal(3)
	cs[0].load = loaded(10, 4)
	cs[1].load = loaded(10, 2)
	cs[2].load = loaded(10, 3)
	if i := Greedy().Pick(cs); i != 1 {
		t.Errorf("picked %d", i)
	}
	cs[0].load = loaded(40, 4) // 36 free
	if i := Greedy().Pick(cs); i != 0 {
		t.Errorf("picked %d", i)
	}
}

func TestRandomWeightedFollowsLatency(t *testing.T) {
	got := shares(RandomWeighted(), fleet(time.Millisecond, 2*time.Millisecond, 4*time.Millisecond), picks)
	for i, want := range []float64{4.0 / 7, 2.0 / 7, 1.0 / 7} {
		near(t, fmt.Sprint("node ", i), got[i], want)
	}
}

func TestNearestTakesTheLowestLatency(t *testing.T) {
	if i := Nearest().Pick(fleet(3, 1, 2)); i != 1 {
		t.Errorf("picked %d", i)
	}
}

func TestLeastLoadedStaysInTheLatencyWindow(t *testing.T) {
	got := shares(LeastLoaded(), fleet(40*time.Millisecond, time.Millisecond, 10*time.Millisecond, 17*time.Millisecond), picks)
	for i, want := range []float64{0, 0.5, 0.5, 0} {
		near(t, fmt.Sprint("node ", i), got[i], want)
	}
}

func TestLeastLoadedPrefersTheLessLoadedOfTwo(t *testing.T) {
	cs := equal(3)
	cs[0].load = loaded(10, 9)
	cs[1].load = loaded(10, 1)
	cs[2].load = loaded(100, 20) // as full as twice node 1
	got := shares(LeastLoaded(), cs, picks)
	for i, want := range []float64{0, 2.0 / 3, 1.0 / 3} { // 0 loses to both, 1 wins against both
		near(t, fmt.Sprint("node ", i), got[i], want)
	}
}

func TestPickersDoNotAllocate(t *testing.T) {
	cs := equal(100)
	for name, picker := range balancers {
		p := picker()
		if n := testing.AllocsPerRun(1000, func() { p.Pick(cs) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for name, picker := range balancers {
		for _, n := range []int{2, 100} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				latencies := make([]time.Duration, n)
				for i := range latencies {
					latencies[i] = time.Duration(1+i) * time.Millisecond / 10
				}
				cs, p := fleet(latencies...), picker()
				for b.Loop() {
					p.Pick(cs)
				}
			})
		}
	}
}
