package hasql

import (
	"slices"
	"sync/atomic"
	"time"
)

// counts counts what becomes of the work of the service, above all in a failover.
type counts struct {
	waits    [targets]waitCount
	cut      atomic.Int64 // connections to nodes that are down, stale or foreign
	repeated atomic.Int64 // statements that a stopping server had undone
}

// waitBounds are the upper bounds of the buckets in which waits are counted. They are those of OpenTelemetry for the durations of
// database operations, and the default of [Config.AcquireTimeout].
var waitBounds = [...]time.Duration{
	time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	500 * time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// waitCount counts the acquires of one target that have to wait: those that do now, and those that did. An acquire that finds
// an idle connection does not touch it.
type waitCount struct {
	begun, ended          atomic.Int64                      // dials of guests included
	buckets               [len(waitBounds) + 1]atomic.Int64 // acquires that have ended, by how long they waited
	nanoseconds, failures atomic.Int64                      // of these
	longest               atomic.Int64                      // nanoseconds, since takeLongest was called last
}

// record counts an acquire that has ended.
func (w *waitCount) record(started time.Time, err *error) {
	took := time.Since(started)
	w.nanoseconds.Add(int64(took))
	w.buckets[bucketOf(took)].Add(1)
	if *err != nil {
		w.failures.Add(1)
	}
	for longest := w.longest.Load(); int64(took) > longest && !w.longest.CompareAndSwap(longest, int64(took)); {
		longest = w.longest.Load()
	}
}

func bucketOf(wait time.Duration) int {
	i, _ := slices.BinarySearch(waitBounds[:], wait)
	return i
}

// waiting returns how many wait at this moment.
func (w *waitCount) waiting() int64 {
	ended := w.ended.Load() // first, as what has ended had begun
	return w.begun.Load() - ended
}

// takeLongest returns the longest wait that has ended since the call before.
func (w *waitCount) takeLongest() time.Duration { return time.Duration(w.longest.Swap(0)) }
