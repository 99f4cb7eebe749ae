// Package workload measures what an application sees of a failover. [Ledger] records its writes and what became of each,
// [Prober] finds out when a node accepts writes, [Silence] measures how long a client waits for an answer, and [Spread] sums
// up the figures of several runs. The demo, the benchmark of failovers and the tests on real PostgreSQL use it.
//
// Times in a Ledger and in a Silence are durations since a moment that the caller chooses.
package workload

// Nobody stands for the node of an operation that failed.
const Nobody = -1
