package evidence

// Life is a time during which a server is out of recovery. It begins with a start, a crash recovery or a promotion. In no two
// lives of a cluster are all three fields the same.
type Life struct {
	Timeline  uint32
	Recovered uint64 // where the recovery that it began with ended, pg_last_wal_replay_lsn(); 0 if there was none
	Started   int64  // when the postmaster started, microseconds since 1970
}

// Trace is what a transaction has learnt of itself before its COMMIT leaves.
type Trace struct {
	Node     string // where it ran
	SystemID uint64 // of the cluster; 0 if unknown
	Life     Life   // zero if unknown
	XID      uint64 // pg_current_xact_id(); 0 if unknown
	LSN      uint64 // behind its first WAL record, and before its commit record; 0 if unknown
	PID      int32  // of its session's process; 0 if unknown
}

// Status is what a server says of a transaction id.
type Status uint8

const (
	Forgotten  Status = iota // it is too old for the server to know
	InProgress               // running, or not handed out yet
	Aborted
	Committed
)

// Answer is what the current master says, all of one session.
type Answer struct {
	Node     string
	SystemID uint64 // 0 if unknown
	Life     Life
	Status   Status // of the trace's xid
}

// Verdict is what is proven of a transaction.
type Verdict uint8

const (
	Unknown    Verdict = iota // nothing is proven, and asking again does not help
	Pending                   // ask again: the transaction's own session has not ended yet
	Elsewhere                 // ask again: this server is not the master of the transaction's cluster any more
	Applied                   // the transaction is part of the current master's history
	NotApplied                // the transaction is not part of it, and never will be
)
