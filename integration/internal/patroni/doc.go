// Package patroni runs a Patroni cluster for the integration tests: one etcd, and members that each keep a PostgreSQL.
//
//	cluster, err := patroni.Start(ctx, patroni.Options{Members: 3, Logf: t.Logf})
//	…
//	defer cluster.Close()
//	old, err := cluster.Leader(ctx)
//	err = old.Kill(ctx)               // power loss
//	next, err := cluster.Leader(ctx)  // waits until Patroni has promoted another
//	err = old.Rejoin(ctx)
//
// Everything lives in a [pgcluster.Sandbox]: it needs no systemd and no root, listens on 127.0.0.1 only, and leaves nothing
// behind, however the test ends. Timings are the shortest with which Patroni works reliably, so a failover takes seconds
// where the defaults take half a minute; fsync is off. Replication is synchronous to one standby (synchronous_mode), which
// is the one that Patroni promotes, so that no acknowledged write may be lost.
//
// The package is internal to the integration tests because nothing else needs Patroni.
package patroni
