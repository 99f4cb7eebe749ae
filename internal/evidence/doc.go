// Package evidence knows what proves that a transaction was committed, or was not, when its COMMIT was sent and the answer
// did not come. It uses no SQL, no sockets and no clock. What servers say comes in as values. A [History] collects it, which
// grows and is shared by all transactions of a process.
//
// # What is known of a transaction
//
// Before COMMIT leaves, the transaction has asked for a [Trace]: its xid X, a position L in the write-ahead log (WAL) that lies
// behind its first record and before its commit record, and in which [Life] of which server that was. A life is a time during
// which a server is out of recovery. It begins with a start, a crash recovery or a promotion, and ends with a crash or a stop.
// What follows it, on this server or another one, may hand X out again.
//
// # The states of a COMMIT
//
//	answered COMMIT              applied
//	answered ROLLBACK, an ERROR  not applied
//	never written to the socket  not applied
//	written, not answered        lost: ask the current master, as follows
//
// # What the current master proves
//
// It answers with its own life, with the end E of the recovery that the life began with, and with the status of X. Replay moves
// the next xid past every xid that it sees. So where a record of X was replayed, X is never handed out again in that history.
// The history of the master contains the WAL of the trace's life up to a position C. C may be unknown.
//
//	status of X                          life          verdict
//	in progress                          the same      pending: wait for the end of its session
//	aborted                              the same      not applied
//	committed                            the same      applied
//	in progress, aborted, not yet begun  a later one   not applied: the commit record bears X, and was not replayed
//	any, L > E                           a later one   not applied: not even the first record was replayed
//	committed, L > C                     a later one   not applied: X was handed out again, to another transaction
//	committed, L ≤ C                     a later one   applied: X is ours there for ever
//	committed, C unknown                 a later one   unknown
//	forgotten                            any           unknown
//
// A later life is one on a higher timeline, or another life of the node with the same name on the same timeline. It is later,
// because the answer came after the trace. Two answers prove nothing. A server on a lower timeline is not the master any more,
// whatever it says. Another node on the same timeline was promoted to it beside the first, and no client can tell which of them
// has the transaction.
//
// After a crash of the same server C is E. A restart in order loses nothing, so it sets no limit. After a promotion C is where
// the new timeline branched off from the trace's timeline. That is known if three facts are known:
//
//  1. Where the master's timeline begins: a session on the promoted server has seen its recovery end, on the timeline before. So
//     the timeline begins at E of that life.
//  2. That the WAL up to C was written in the trace's life, and not by a restarted server over the same positions: that life was
//     the last one on its timeline, or L is known to have been flushed in it.
//  3. Where every timeline in between begins, which was seen in the same way.
//
// If a restarted server has written over the trace's WAL, its recovery has kept that WAL up to its own E. Then C is not above it.
package evidence
