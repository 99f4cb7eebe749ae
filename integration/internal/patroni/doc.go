// Package patroni runs a Patroni cluster for the integration tests: one etcd, and members that each run a PostgreSQL.
//
//	cluster, err := patroni.Start(ctx, patroni.Options{Members: 3, Logf: t.Logf})
//	…
//	defer cluster.Close()
//	old, err := cluster.Leader(ctx)
//	err = old.Kill(ctx)               // power loss
//	next, err := cluster.Leader(ctx)  // waits until Patroni has promoted another
//	err = old.Rejoin(ctx)
//
// Everything runs in a [pgcluster.Sandbox]. It needs no systemd and no root, listens on 127.0.0.1 only, and leaves nothing
// behind, however the test ends. The timings are the shortest with which Patroni works reliably, so a failover takes seconds;
// with Patroni's defaults it takes half a minute. fsync is off. Replication is synchronous to one standby
// (synchronous_mode). Patroni promotes only this standby, so no acknowledged write may be lost.
//
// The package is internal to the integration tests because nothing else needs Patroni.
package patroni
