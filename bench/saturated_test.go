package bench

import (
	"context"
	"runtime"
	"testing"
)

// BenchmarkSaturated measures Acquire and Release where four goroutines compete for each connection, so that nearly every
// acquire waits in a queue.
func BenchmarkSaturated(b *testing.B) {
	c := cluster(b)
	for _, bench := range []struct {
		name  string
		nodes int // of the route
	}{{"master", 1}, {"replica", 2}} {
		pool, pm := bare(b, c), manager(b, c, 3, "least_loaded")
		acquire := pm.AcquireMaster
		if bench.name == "replica" {
			acquire = pm.AcquireReplica
		}
		b.Run(bench.name, func(b *testing.B) {
			theirs, ours := crowd(b, pool.Acquire, 16), crowd(b, acquire, 16*bench.nodes)
			theirs(block)
			ours(block) // opens every connection
			compareBlocks(b, theirs, ours)
		})
	}
}

// crowd returns a function that lets many goroutines acquire and release, n times in all.
func crowd(b *testing.B, acquire acquirer, size int) (run func(n int)) {
	turns, done := make(chan int), make(chan struct{})
	for range size {
		go func() {
			for n := range turns {
				for range n {
					conn, err := acquire(context.Background())
					if err != nil {
						b.Error(err)
						break
					}
					runtime.Gosched() // lets the others queue for it
					conn.Release()
				}
				done <- struct{}{}
			}
		}()
	}
	b.Cleanup(func() { close(turns) })
	return func(n int) {
		for range size {
			turns <- n / size
		}
		for range size {
			<-done
		}
	}
}
