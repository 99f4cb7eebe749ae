// Package hasql routes the work of a service over a highly available PostgreSQL cluster: one DSN that names every node,
// one [PoolManager], and every acquire goes to the right node before, during and after a failover.
//
//	pool, err := hasql.New(ctx, "postgres://app@pg1,pg2,pg3/shop")
//	…
//	defer pool.Close(ctx)
//	_, err = pool.Master().Exec(ctx, "update …")          // waits for a master if there is none at the moment
//	rows, err := pool.Replica().Query(ctx, "select …")
//
// # When to choose what
//
// [PoolManager.Master] and [PoolManager.Replica] return a [Route], which has pgx's query methods: use it wherever a
// pgxpool.Pool would do, also as the database of code that sqlc generated. [PoolManager.AcquireMaster] and
// [PoolManager.AcquireReplica] return pgx's own *pgxpool.Conn, for work that needs one connection for several
// statements. [PoolManager.Acquire] takes the choice as a flag. Package stdlib makes a *sql.DB of a Route, and [Route.Pool] a
// pgxpool.Pool, for libraries that want these.
//
// # How it works
//
// Each node has a monitor. Over a connection of its own it asks the node for transaction_read_only: each
// [Config.CheckInterval], at once when that connection has ended, and sooner if the traffic or an acquire that waits gives a
// reason. While no master is known it asks each [Config.RecoveryInterval] at first. One goroutine turns the results of all
// monitors into an immutable [Snapshot]. An acquire reads the current one without a lock, lets the [Picker] choose among the
// nodes that fit, and borrows from that node's pgxpool.Pool. If no node fits, the acquire waits for a snapshot with one that
// does.
//
//	         probe               reduce                  load, pick, borrow
//	node ─────────────▶ monitor ──────────▶ Snapshot ──────────────────────────▶ acquire
//	                                            │
//	                                            └──▶ pools: cut, unfence   Hooks, log
//
// # What is guaranteed
//
//   - A connection for writing leads to a node whose last probe reported transaction_read_only off, and, where nodes tell
//     their timelines, whose timeline is the highest that was ever seen. That probe is at most 1.1 × CheckInterval +
//     CheckTimeout old, unless this process was stopped.
//   - Once a newer master was seen, an older one gets no write and no read until it has rejoined, not even if the newer one
//     vanishes again; its connections are cut at once with a [*NodeDownError]. If the cluster itself was rolled back,
//     [PoolManager.ForgetCluster] lifts that. hasql lifts it by itself if every node that was on the newer timeline reports
//     that it receives the older one, which needs pg_monitor.
//   - Acquires do not fail because of the state of nodes before their budget ends, and then with a [*NoNodeError] that says
//     what every node looked like. There is one exception: they fail at once while every node refuses the login and none has
//     ever answered, as with a wrong password.
//   - A server that is shut down undoes the statements that are running, and says so (FATAL 57P01). hasql runs such a
//     statement again on the node that fits next. This goes for Exec, Query before its first row, and QueryRow of a [Route],
//     and for single statements that cannot commit in their middle: not for CALL, DO and the like, nor inside a transaction,
//     in a batch or a COPY, nor behind a pooler. A probe must prove first that the node goes out of service: a statement
//     whose session was ended by pg_terminate_backend does not run again. [Config.Repeat] and [WithRepeat] switch it off. No
//     rollback undoes what a sequence has handed out, what was read from a logical slot (pg_logical_slot_get_changes), and
//     what a function does elsewhere: by dblink, on the nodes of Citus, in an autonomous transaction. Such effects may
//     happen twice.
//   - [Route.InTx] applies a transaction once, also if its master dies between COMMIT and the answer: it repeats what was
//     not applied, and finds out about the rest. In the rare case that nobody can tell, the error is a
//     [*CommitUnknownError].
//   - Begin of a Route takes another connection if the first one ends before the transaction has begun.
//   - If the server's command tag for a statement of a Route has come, the call succeeds, also if the connection ends right
//     after it. The same holds for COMMIT.
//   - No error of a statement that was in flight when its connection ended says that it is safe to retry
//     (pgconn.SafeToRetry): not on a Route, not in its transactions, not on an acquired connection. [Outcome] says in one
//     call whether what was asked took effect, did not, or nobody knows.
//   - One hung node delays nothing but itself. A full pool, a slow query or a burst of SQL errors demotes nobody.
//   - No password is in any error, log entry, hook or Stat.
//
// # What is not
//
//   - A master that was superseded without this process having seen the new one yet is taken for the master: nobody on the
//     client's side can know. Ask your failover manager to fence (Patroni does, with a watchdog), or use synchronous
//     replication, under which such a write is not acknowledged.
//   - Two nodes that were both promoted to one timeline cannot be told apart. Each client keeps the one it saw first, until
//     that one has given no report for DownTimeout. So two clients may write to two masters. A failover manager with a lease
//     promotes one only.
//   - A process that was stopped itself (SIGSTOP, a suspended machine) uses what it knew before, until its monitors have
//     probed again.
//   - A statement outside of InTx that was in flight when its connection ended without an error from the server, by a crash
//     or a cut, may or may not have taken effect, and is not repeated. A write whose commit waited for a synchronous standby
//     when the server was shut down is not repeated either. PostgreSQL ends that session without an answer. The write has
//     taken effect on that server.
//   - A transaction of Begin that is under way fails in a switchover, undone, at any of its statements. InTx runs it again.
//   - A server that logs the duration of statements (log_min_duration_statement, log_duration) may send 57P01 after a
//     commit. The caller then sees 57P01 although the commit is done. This can happen to COPY and to COMMIT on an acquired
//     connection. In the simple protocol it can also happen to a batch, and to every statement on an acquired connection.
//   - Under asynchronous replication a failover loses what the new master had not received. The library can't see that.
//   - Replicas lag. [AtLeast] is for reading what was written, [Config.MaxReplicaLag] for reading nothing too old.
//   - A replica that has diverged (it has WAL that the new master lacks) is known in two ways: its position is beyond that
//     of the master, or it reports another timeline, which needs pg_monitor. It is left out of reads until it is restarted,
//     or until there is another master or timeline: rewind or rebuild it before that.
//   - A replica that was built by a base backup while commits waited for a synchronous standby has the WAL of these commits
//     and acknowledges them. Its queries do not see them before the next commit, or for 15 s. AtLeast cannot see that.
//   - Fencing, lag and identity need functions of PostgreSQL that some products lack, and others refuse to a role. Behind a
//     pooler, or on a product that lacks them, roles still work; a warning says what does not.
package hasql
