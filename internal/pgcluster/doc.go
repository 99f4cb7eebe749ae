// Package pgcluster runs a real PostgreSQL cluster, one master and its streaming replicas, with the server programs of this
// machine. It causes the faults of real life: power loss, hangs, shutdowns, promotions, and ex-masters that come back.
//
// It exists for integration tests, benchmarks and demonstrations. Everything listens on 127.0.0.1, or on hosts that the caller
// makes (see [Host]), and lives in one temporary folder. For speed, fsync is off: never keep data in it.
//
//	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Replicas: 2})
//	…
//	defer cluster.Close()
//	nodes := cluster.Nodes()
//	err = nodes[0].Kill()                                        // power loss
//	ranked, err := pgcluster.Failover(ctx, nodes[1], nodes[2])   // the replica that has most takes over, the other one follows it
//	err = nodes[0].Rejoin(ctx, ranked[0])                        // the ex-master comes back as a replica
//
// # What is where
//
// A cluster's folder holds one folder per node, n1, n2, …. In it, data/ is the data directory and log is the server's log.
// postgresql.conf and pg_hba.conf stand next to data/, not in it, so that pg_rewind and pg_basebackup cannot replace them by
// those of another node. The result of initdb is kept between runs in a folder of its own, hasql-pgcluster-<user id>, and
// copied for every node. Therefore all nodes have the same system identifier.
//
// All of that lies under $TMPDIR if it is set, else in memory under /dev/shm if that has 4 GiB to spare, else under
// [os.TempDir].
//
// # What ends it
//
// [Cluster.Close] ends every process and removes the folder. A process that dies without calling it, even by kill -9, leaves
// nothing behind either: a watchdog (sh) waits on a pipe that only this process holds open, and cleans up when the pipe
// breaks.
//
// # Where it runs
//
// Linux, because processes are found through /proc; elsewhere it compiles and [Start] says why not. PostgreSQL 13
// or newer. PostgreSQL refuses to run as root, so root's clusters run as user postgres, or nobody.
package pgcluster
