package hasql

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What "make simulate" is told, see TestSimulate.
const (
	seedsEnv = "SEEDS"
	seedEnv  = "SEED"
)

// seeds yields the specs of a range of seeds.
func seeds(first, last uint64) func(yield func(spec) bool) {
	return func(yield func(spec) bool) {
		for seed := first; seed <= last; seed++ {
			if !yield(spec{seed: seed}) {
				return
			}
		}
	}
}

// tally is what many runs came to.
type tally struct {
	runs, failovers, writes, reads int
	virtual                        time.Duration
}

func (y *tally) add(r result) {
	y.runs++
	y.failovers += r.Failovers
	y.writes += r.Writes
	y.reads += r.Reads
	y.virtual += r.Virtual
}

func (y *tally) String() string {
	return fmt.Sprintf("%d runs, %d failovers, %d writes acknowledged, %d reads, %v of virtual time",
		y.runs, y.failovers, y.writes, y.reads, y.virtual.Round(time.Second))
}

// story tells of a run: its schedule is among the trace.
func (r *result) story() string {
	var b strings.Builder
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "%s, at %v: %s\n", f.Invariant, f.At, f.What)
	}
	fmt.Fprintf(&b, "%s\n\nmake simulate SEED=%s runs it again", strings.Join(r.Trace, "\n"), r.Spec)
	return b.String()
}

// fail reports a failed run by the fewest steps that still fail.
func (w workers) fail(t *testing.T, r result) {
	t.Helper()
	small := w.shrink(r)
	t.Errorf("seed %s, shrunk to %s: %s", r.Spec, small.Spec, small.story())
}

// TestSimulation runs a few hundred failovers.
func TestSimulation(t *testing.T) {
	w := ownWorkers(t)
	var failed []result
	var all tally
	w.run(seeds(1, 60), func(r result) bool {
		if all.add(r); len(r.Failures) > 0 {
			failed = append(failed, r)
		}
		return len(failed) < 3
	})
	t.Log(&all)
	for _, r := range failed {
		w.fail(t, r)
	}
	if len(failed) == 0 && all.failovers < 2*all.runs {
		t.Error("hardly anything happened: " + all.String())
	}
}

// TestSimulationRepeats compares two runs of each seed. Their schedules are the same. So is, for some 96 of 100 seeds, all
// that happens, to the nanosecond; it can't be for each, because Go runs what is ready at one instant in an order of its
// own, and under the race detector in a random one on purpose.
func TestSimulationRepeats(t *testing.T) {
	const runs = 16
	w := ownWorkers(t)
	first := make(map[string]result)
	w.run(seeds(1, runs), func(r result) bool {
		first[r.Spec] = r
		return true
	})
	alike := 0
	w.run(seeds(1, runs), func(r result) bool {
		if len(r.Failures) > 0 || r.Steps == "" || r.Steps != first[r.Spec].Steps {
			t.Errorf("seed %s has schedules %q and %q, and failures %v", r.Spec, first[r.Spec].Steps, r.Steps, r.Failures)
		}
		if r.Digest == first[r.Spec].Digest {
			alike++
		}
		return true
	})
	t.Logf("%d of %d runs were the same to the nanosecond", alike, runs)
}

// TestSimulate is "make simulate": as many seeds as SEEDS says, a number or a range such as 5..9, or the one run that
// SEED names, with its trace.
func TestSimulate(t *testing.T) {
	w := ownWorkers(t)
	if text := os.Getenv(seedEnv); text != "" {
		sp, err := parseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		w.trace = true
		w.work([]spec{sp}, func(r result) bool {
			if fmt.Println(strings.Join(r.Trace, "\n")); len(r.Failures) > 0 {
				w.fail(t, r)
			}
			return true
		})
		return
	}
	first, last, err := parseSeeds(os.Getenv(seedsEnv))
	if err != nil {
		t.Fatal(err)
	}
	if last == 0 {
		t.Skip("SEEDS is not set")
	}
	began, shown := time.Now(), time.Now()
	var all tally
	w.run(seeds(first, last), func(r result) bool {
		all.add(r)
		if len(r.Failures) > 0 {
			w.fail(t, r)
			return false
		}
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			fmt.Printf("%s; %.0f failovers/s\n", &all, float64(all.failovers)/time.Since(began).Seconds())
		}
		return true
	})
	fmt.Printf("%s, in %v: %.0f failovers/s\n", &all, time.Since(began).Round(time.Second), float64(all.failovers)/time.Since(began).Seconds())
}

// parseSeeds reads 100 as 1..100.
func parseSeeds(text string) (first, last uint64, err error) {
	if text == "" {
		return 0, 0, nil
	}
	from, to, isRange := strings.Cut(text, "..")
	if !isRange {
		from, to = "1", text
	}
	if first, err = strconv.ParseUint(from, 10, 64); err == nil {
		last, err = strconv.ParseUint(to, 10, 64)
	}
	return first, last, err
}
