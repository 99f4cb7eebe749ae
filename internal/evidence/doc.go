// Package evidence knows what proves that a transaction was committed, or was not, when its COMMIT was sent and the answer
// did not come. It is pure: no SQL, no sockets, no clock. What servers say comes in as values.
//
// # What is known of a transaction
//
// Before COMMIT leaves, the transaction has asked for a [Trace]: its xid X, a position L in the write-ahead log (WAL) that lies
// behind its first record and before its commit record, and in which [Life] of which server that was. A life is the time
// between two recoveries: it ends with a crash, a restart or a promotion, and what comes after it may hand X out again.
//
// # The states of a COMMIT
//
//	answered COMMIT              applied
//	answered ROLLBACK, an ERROR  not applied
//	never written to the socket  not applied
//	written, not answered        lost: ask the master of now, as follows
//
// # What the master of now proves
//
// It answers with its own life, with the end E of the recovery that the life began with, and with the status of X. Replay moves
// the next xid past every xid that it sees. So where a record of X was replayed, X is never handed out again in that history.
//
//	status of X                          life          verdict
//	in progress                          the same      pending: wait for the end of its session
//	aborted                              the same      not applied
//	committed                            the same      applied
//	in progress, aborted, not yet begun  a later one   not applied: the commit record bears X, and was not replayed
//	any, L > E                           a later one   not applied: not even the first record was replayed
//	committed, L ≤ E proven              a later one   applied: X is ours there for ever
//	committed otherwise; forgotten       any           unknown
//
// A later life is one on a higher timeline, or one of the same server on the same timeline. A server on a lower timeline is not
// the master any more, whatever it says; another server on the same timeline was promoted to it beside the first, which nobody
// on the client's side can judge. Both prove nothing.
//
// L ≤ E is proven if three things are known. The later timeline branched off at E from the one of the trace: a session on the
// promoted server has seen its recovery end, on the timeline before. The WAL up to E is the WAL of the trace's life, and not what
// a restarted server wrote over the same positions: that life was the last one on its timeline, or L is known to have been
// flushed in it. And every timeline between has been seen in the same way. [History] collects what is known of that.
package evidence
