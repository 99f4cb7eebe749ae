// Package pgcluster runs a real PostgreSQL cluster, one master and its streaming replicas, from the binaries
// installed on this machine, and does to it what happens in real life: power loss, hangs, fast and slow stops,
// promotions, and ex-masters that come back.
//
// It exists for integration tests, benchmarks and demonstrations. Everything listens on 127.0.0.1 (or on hosts that the
// caller makes, see [Host]), lives in one temporary folder and is as fast as a test wants it to be (fsync is off): never
// keep data in it.
//
//	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Replicas: 2})
//	…
//	defer cluster.Close()
//	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
//	err = old.Kill()            // power loss
//	err = next.Promote(ctx)     // a replica takes over
//	err = old.Rejoin(ctx, next) // the ex-master comes back as a replica
//
// # What is where
//
// A cluster's folder holds one folder per node, n1, n2, …: data/ is the data directory; postgresql.conf and
// pg_hba.conf stand next to it, not in it, so that pg_rewind and pg_basebackup cannot replace them by another
// node's; log is what the server wrote. The result of initdb is kept between runs in a folder of its own,
// hasql-pgcluster-<user id>, and copied for every node, which therefore all have one system identifier from the start.
//
// All of that lies under $TMPDIR if it is set, else in memory under /dev/shm if that has 4 GiB to spare, else under
// [os.TempDir].
//
// # What ends it
//
// [Cluster.Close] ends every process and removes the folder. A process that dies without calling it, be it by
// kill -9, leaves nothing behind either: a watchdog (sh) waits on a pipe that only this process holds open, and
// cleans up when that breaks.
//
// # Where it runs
//
// Linux, because processes are found through /proc; elsewhere it compiles and [Start] says why not. PostgreSQL 13
// or newer. PostgreSQL refuses to run as root, so root's clusters run as user postgres, or nobody.
package pgcluster
