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
// A monitor per node asks it for transaction_read_only over a connection of its own, each [Config.CheckInterval] and
// whenever there is a reason to, and sees at once when that connection ends. What monitors see is reduced, by one
// goroutine, to an immutable [Snapshot]; an acquire reads the current one without a lock, lets the [Picker] choose among
// the nodes that fit, and borrows from that node's pgxpool.Pool. If none fits it waits for the snapshot that brings one.
//
//	         probe, end of socket              reduce                  load, pick, borrow
//	node ──────────────────────────▶ monitor ──────────▶ Snapshot ──────────────────────────▶ acquire
//	                                                         │
//	                                                         └──▶ pools: cut, unfence   Hooks, log
//
// # What is guaranteed
//
//   - A connection for writing leads to a node whose last probe reported transaction_read_only off, and whose timeline is
//     the highest that was ever seen. While this process runs, that probe is at most CheckInterval (and its 10 %) plus
//     CheckTimeout old.
//   - Once a newer master was seen, an older one gets no write and no read until it has rejoined, not even if the newer
//     one vanishes again; its connections are cut at once with a [*NodeDownError]. Where the cluster itself was rolled back,
//     [PoolManager.ForgetCluster] lifts that; it is lifted at once where every node that was on the newer timeline tells
//     (pg_monitor) that it receives the older one.
//   - Acquires do not fail because of the state of nodes before their budget ends, and then with a [*NoNodeError] that says
//     what every node looked like. There is one exception: they fail at once while every node refuses the login and none has
//     ever answered, as with a wrong password.
//   - A statement that a server sends back undone because it is being shut down or restarted (FATAL 57P01) runs again on the
//     next one. This goes for Exec, Query before its first row, and QueryRow of a [Route], and for single statements that
//     cannot commit in their middle: not for CALL, DO and the like, nor inside a transaction, in a batch or a COPY, nor
//     behind a pooler. A probe must prove first that the node leaves: a session that somebody has terminated is not begun
//     again. [Config.Repeat] and [WithRepeat] switch it off. No rollback undoes what a sequence has handed out, what was
//     read from a logical slot (pg_logical_slot_get_changes), and what a function does elsewhere: by dblink, on the nodes of
//     Citus, in an autonomous transaction. Such effects may happen twice.
//   - [Route.InTx] applies a transaction once, also if its master dies between COMMIT and the answer: it repeats what was not
//     applied, and finds out about the rest. In the rare case that nobody can tell, the error is a [*CommitUnknownError].
//   - Begin of a Route takes another connection if the first one ends before the transaction has begun.
//   - A statement of a Route whose tag came has succeeded, also if the connection ends behind it. So has a COMMIT.
//   - No error of a statement that was in flight when its connection ended says that it is safe to retry
//     (pgconn.SafeToRetry): not on a Route, not in its transactions, not on an acquired connection. [Outcome] says in one
//     call whether what was asked took effect, did not, or nobody knows.
//   - One hung node delays nothing but itself. A full pool, a slow query or a burst of SQL errors demotes nobody.
//   - No password is in any error, log entry, hook or Stat.
//
// # What is not
//
//   - A master that was superseded without this process having seen the new one yet is taken for the master: nobody on
//     the client's side can know. Ask your failover manager to fence (Patroni does, with a watchdog), or use synchronous
//     replication, under which such a write is not acknowledged.
//   - Two nodes that were both promoted to one timeline cannot be told apart. Each client keeps the one it saw first as long as
//     that lives, so two clients may write to two masters. A failover manager with a lease promotes one only.
//   - A process that was stopped itself (SIGSTOP, a suspended machine) knows what it knew before, for the moment until its
//     monitors have asked again.
//   - A statement outside of InTx that was in flight when its connection ended without a word, by a crash or a cut, may or may not have
//     taken effect, and is not repeated. Nor is a write whose commit waited for a synchronous standby when the server was
//     shut down: PostgreSQL ends its session without an answer, and it has taken effect on that server.
//   - A transaction of Begin that is under way fails in a switchover, undone, at any of its statements. InTx runs it again.
//   - A 57P01 that ends a COMMIT on an acquired connection, a COPY, or in the simple protocol a batch or anything on an
//     acquired connection, may come behind the commit, from servers that log the duration of statements
//     (log_min_duration_statement, log_duration).
//   - Under asynchronous replication a failover loses what the new master had not received. The library can't see that.
//   - Replicas lag. [AtLeast] is for reading what was written, [Config.MaxReplicaLag] for reading nothing too old.
//   - A replica that has diverged (it has WAL that the new master lacks) is known by its position alone, as long as the master
//     is behind that, or where it may tell its timeline (pg_monitor). Once known it is left out until it is restarted, or there
//     is another master: rewind or rebuild it before that.
//   - A replica that was built by a base backup while commits waited for a synchronous standby acknowledges these, and does
//     not show them before the next commit, or for 15 s, though its position is past them. AtLeast cannot see that.
//   - Fencing, lag and identity need the functions that [StandardChecker] names. Behind a pooler, or on a product that
//     lacks them, roles still work; a warning says what does not.
package hasql
