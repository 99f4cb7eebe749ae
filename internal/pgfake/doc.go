// Package pgfake is a PostgreSQL cluster in memory, for tests that are about
// time, failure and order rather than about SQL.
//
// A [Cluster] holds a master and its replicas. Each [Node] speaks the wire
// protocol to real clients (pgx, pgxpool) that reach it through
// [Cluster.Dial] and [Cluster.Lookup], set as DialFunc and LookupFunc of a
// pgconn.Config. There is no network, no file and no global state, and every
// idle goroutine is durably blocked, so a cluster made inside a
// testing/synctest bubble runs on virtual time: an hour of failovers takes
// milliseconds.
//
//	synctest.Test(t, func(t *testing.T) {
//		cluster := pgfake.New("pg1", "pg2", "pg3")
//		defer cluster.Close()
//		cluster.Node("pg1").Kill()
//		cluster.Node("pg2").Promote()
//	})
//
// # Where a fault lives
//
// A fault belongs to one of three layers, and they combine:
//
//	network   Cut, Heal,         dials hang, bytes wait in flight (TCP retransmits),
//	          DialTime, …        in both directions or in one; or dials take long
//	process   Freeze, Thaw,      the kernel still answers: dials succeed and
//	          Latency            bytes are buffered, but nobody works on them
//	server    Kill, Stop, Start, refused dials, FATAL messages, closed sockets
//	          StartingUp,        logins are refused, sessions are read-only,
//	          AlterDatabase,     reads wait for a lock
//	          LockTable, …
//
// # What the server understands
//
// Statements come from [Cluster.Handle] and [Cluster.HandlePrefix] first, then
// from the built-in list below; anything else is a syntax error (42601) that
// names the text.
//
//	(empty, or only comments)          empty query, as pgx's Ping sends
//	begin, start transaction, commit, end, rollback, abort,
//	savepoint, release, rollback to    transaction status I, T and E as PostgreSQL
//	write TOKEN, write $1              appends TOKEN to the node's log at commit;
//	                                   25006 in a read-only transaction
//	read                               text column: the node's name; waits for LockTable
//	select role                        text column: master or replica
//	select 1                           int4 column
//	select pg_is_in_recovery()         bool column
//	select pg_sleep(SECONDS)           cancellable
//	show transaction_read_only, show default_transaction_read_only
//	set …, discard all, deallocate …
//
// # The log
//
// Every committed write is a record in the node's write-ahead log and moves the
// node's LSN by 100. A replica streams from the newest master it can reach while
// its own log is a prefix of the master's, at once or after
// [Node.SetReplayDelay]; one that has diverged stays behind until
// [Node.Follow]. Promotion keeps exactly what the replica had replayed, so
// [Cluster.Survived] can tell which acknowledged writes a failover lost.
package pgfake
