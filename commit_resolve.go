package hasql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

// verifier is TxOptions.Verify.
type verifier = func(ctx context.Context, conn *pgxpool.Conn) (applied bool, err error)

// commits finds out what became of the transactions of InTx.
type commits struct {
	cluster *clusterStore
	config  *Config
	master  *Route
}

// commits are those of a route.
func (r *Route) commits() *commits {
	master := r
	if r.criteria.target != TargetMaster {
		master = new(Route)
		master.init(r.cluster, r.config, r.waits, TargetMaster)
	}
	return &commits{cluster: r.cluster, config: r.config, master: master}
}

// CommitUnknownError is returned by [Route.InTx] if COMMIT was sent, its answer did not come, and nobody can tell what became of the
// transaction: as far as anybody knows it was applied, or was not.
type CommitUnknownError struct {
	ID     CommitID // for [PoolManager.ResolveCommit], also in another process
	Node   string   // that COMMIT was sent to
	Reason string   // why it cannot be told
	Err    error    // how the wait for the answer ended

	commits *commits
	lost    lostCommit
}

func (e *CommitUnknownError) Error() string {
	return "hasql: unknown whether " + e.Node + " has committed: " + e.Reason + " (" + e.Err.Error() + ")"
}

// Unwrap returns Err.
func (e *CommitUnknownError) Unwrap() error { return e.Err }

// SafeToRetry returns false, see [pgconn.SafeToRetry].
func (e *CommitUnknownError) SafeToRetry() bool { return false }
func (e *CommitUnknownError) outcome() Verdict  { return Unknown }

// Resolve tries again to find out whether the transaction was applied. It waits for a master until ctx ends, or AcquireTimeout. The
// error is a *CommitUnknownError while it is still unknown. It is more often known here than by
// [PoolManager.ResolveCommit]: this process has seen more, and asks TxOptions.Verify.
func (e *CommitUnknownError) Resolve(ctx context.Context) (applied bool, err error) {
	return e.commits.resolve(ctx, e.lost, e.Node)
}

// resolve finds out, within AcquireTimeout.
func (c *commits) resolve(ctx context.Context, lost lostCommit, node string) (applied bool, err error) {
	if limit := c.config.AcquireTimeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errAcquireTimeout)
		defer cancel()
	}
	verdict, why := c.findOut(ctx, &lost)
	switch verdict {
	case evidence.Applied, evidence.NotApplied:
		return verdict == evidence.Applied, nil
	}
	return false, &CommitUnknownError{ID: lost.id(), Node: node, Reason: why, Err: errNotAnswered, commits: c, lost: lost}
}

var errNotAnswered = errors.New("COMMIT was not answered")

// resolveGrace is how long finding out may go on after the end of the caller's context.
const resolveGrace = time.Second

// resolving returns the context under which to find out: of AcquireTimeout, and as long as ctx lasts and a moment longer.
func (c *commits) resolving(ctx context.Context) (context.Context, context.CancelFunc) {
	var resolving context.Context
	var cancel context.CancelFunc
	if limit := c.config.AcquireTimeout; limit > 0 {
		resolving, cancel = context.WithTimeout(context.WithoutCancel(ctx), limit)
	} else {
		resolving, cancel = context.WithCancel(context.WithoutCancel(ctx))
	}
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(resolveGrace):
			cancel()
		case <-resolving.Done():
		}
	})
	return resolving, func() { stop(); cancel() }
}

// whoTells returns the route to whoever can tell what became of a transaction: the master, and of several the one where it ran.
func (c *commits) whoTells(l *lostCommit) *Route {
	if !c.config.MultiMaster {
		return c.master
	}
	config, route := *c.config, new(Route)
	config.Picker = PickerFunc(func(masters []Candidate) int {
		return slices.IndexFunc(masters, func(m Candidate) bool { return m.node.id() == l.trace.Node })
	})
	route.init(c.cluster, &config, c.master.waits, TargetMaster)
	return route
}

// findOut asks the master of now what became of a transaction, until it is known, known to be unknown, or ctx ends.
func (c *commits) findOut(ctx context.Context, l *lostCommit) (verdict evidence.Verdict, why string) {
	if l.mark == nil && l.trace.XID == 0 {
		return evidence.Unknown, "nothing is known that tells it"
	}
	master := c.whoTells(l)
	for round := 0; ; round++ {
		conn, err := master.Acquire(ctx)
		if err != nil {
			return evidence.Unknown, "nobody to ask: " + err.Error()
		}
		verdict, why, err = c.ask(ctx, conn, l)
		conn.Release()
		switch {
		case err == nil && verdict != evidence.Pending && verdict != evidence.Elsewhere:
			return verdict, why
		case err != nil:
			why = err.Error()
			if pgerr.IsStatementRefusal(err) && !inRecovery(err) {
				return evidence.Unknown, why
			}
		}
		select {
		case <-time.After(random.Jittered(backedOff(nodepool.MinDialBackoff, round, maxAskPause))):
		case <-ctx.Done():
			return evidence.Unknown, "not known in time: " + why
		}
	}
}

// maxAskPause is the longest pause between two questions after one transaction.
const maxAskPause = 250 * time.Millisecond

// inRecovery reports whether a question came to a server that is not the master, of a connection that leads elsewhere by now.
func inRecovery(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pgErr.Code == pgerr.ReadOnlySQLTransaction || pgErr.Code == pgerr.ObjectNotInPrerequisiteState)
}

// ask asks one session on the master.
func (c *commits) ask(ctx context.Context, conn *pgxpool.Conn, l *lostCommit) (verdict evidence.Verdict, why string, err error) {
	if err := l.terminate(ctx, conn); err != nil {
		return evidence.Unknown, "", err
	}
	now := c.master.originOf(conn, c.cluster.snapshot())
	another := c.config.MultiMaster && (now == nil || now.node.id() != l.trace.Node)
	switch {
	case another && l.mark != nil:
		verdict, why = c.ofSeveral(l)
		return verdict, why, nil
	case l.mark != nil:
		return c.askMark(ctx, conn, l, now)
	}
	answer, synchronous, err := l.status(ctx, conn)
	if err != nil {
		return evidence.Unknown, "", err
	}
	if now != nil {
		answer.Node, answer.SystemID = now.node.id(), now.Report.SystemID
	}
	verdict, why = evidence.Judge(l.trace, answer, &c.cluster.history, c.config.MultiMaster)
	switch {
	case verdict == evidence.Unknown && another:
		verdict, why = c.ofSeveral(l)
	case verdict == evidence.Applied && synchronous && answer.Life.Timeline == l.trace.Life.Timeline:
		err = confirm(ctx, conn)
	case verdict == evidence.Unknown && l.verify != nil && evidence.Over(l.trace, answer, c.config.MultiMaster):
		return l.verified(ctx, conn)
	}
	return verdict, why, err
}

// ofSeveral is what an answer proves that came from another master than the one of the transaction: nothing, so that one is asked again
// as long as it is there.
func (c *commits) ofSeveral(l *lostCommit) (evidence.Verdict, string) {
	for n := range c.cluster.snapshot().Nodes() {
		if n.node.id() == l.trace.Node && n.Role == RoleMaster && n.Status == StatusUp {
			return evidence.Elsewhere, "another one of several masters has answered"
		}
	}
	return evidence.Unknown, "there may be several masters, and the one of the transaction is not there"
}

// terminate ends the transaction's session, if it is on this very server and still in the transaction: nobody hears its answer any
// more. One that waits for a synchronous standby has committed, and is left to it.
func (l *lostCommit) terminate(ctx context.Context, conn *pgxpool.Conn) error {
	t := &l.trace
	if t.PID == 0 || t.XID == 0 || t.Life.Started == 0 {
		return nil
	}
	_, err := conn.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity
 where pid = $1::int and backend_xid = $2::text::xid and wait_event is distinct from 'SyncRep'
 and (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8 = $3::int8`, t.PID, fmt.Sprint(uint32(t.XID)), t.Life.Started)
	return err
}

// whereabouts are the columns that tell in which life of a server a session is.
const whereabouts = `
 ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int8,
 coalesce((pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8, 0),
 (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8`

// statusQuery asks what became of a transaction id, and who says so. An id that was not handed out yet is an error to
// pg_xact_status; the end of the snapshot is below it.
const statusQuery = `select case when $1::text::xid8 >= pg_snapshot_xmax(pg_current_snapshot()) then 'in progress' else coalesce(pg_xact_status($1::text::xid8), '') end,
 current_setting('synchronous_standby_names') <> '',` + whereabouts

// status asks for the status of the transaction's id.
func (l *lostCommit) status(ctx context.Context, conn *pgxpool.Conn) (a evidence.Answer, synchronous bool, err error) {
	var status string
	var timeline, recovered int64
	err = conn.QueryRow(ctx, statusQuery, fmt.Sprint(l.trace.XID)).Scan(&status, &synchronous, &timeline, &recovered, &a.Life.Started)
	a.Life.Timeline, a.Life.Recovered = uint32(timeline), uint64(recovered)
	a.Status = map[string]evidence.Status{
		"in progress": evidence.InProgress, "aborted": evidence.Aborted, "committed": evidence.Committed,
	}[status]
	return a, synchronous, err
}

// confirm commits something small, and with it waits until everything before has been replicated as it should.
func confirm(ctx context.Context, conn *pgxpool.Conn) error {
	nodepool.ExpectCommit(conn.Conn())
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `select pg_logical_emit_message(true, 'hasql', ''),
 set_config('synchronous_commit', case when current_setting('synchronous_commit') in ('off', 'local') then 'on' else current_setting('synchronous_commit') end, true)`)
	if err != nil {
		_ = tx.Rollback(ctx)
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	return replicated(conn)
}

// askMark reads the mark, on a server that may be asked.
func (c *commits) askMark(ctx context.Context, conn *pgxpool.Conn, l *lostCommit, now *NodeState) (evidence.Verdict, string, error) {
	t := &l.trace
	if now != nil {
		switch {
		case t.SystemID != 0 && now.Report.SystemID != 0 && t.SystemID != now.Report.SystemID:
			return evidence.Unknown, "the master is one of another cluster", nil
		case now.Report.Timeline != 0 && now.Report.Timeline < t.Life.Timeline:
			return evidence.Elsewhere, "the node that answers is on an older timeline than the transaction", nil
		case now.Report.Timeline != 0 && now.Report.Timeline == t.Life.Timeline && now.node.id() != t.Node:
			return evidence.Unknown, "another node is the master on the same timeline", nil
		}
	}
	nodepool.ExpectCommit(conn.Conn())
	var seq int64
	if err := conn.QueryRow(ctx, askMark(l.marker), l.mark.client, l.mark.slot, l.mark.seq).Scan(&seq); err != nil {
		return evidence.Unknown, "", err
	}
	applied, err := l.mark.judge(seq)
	switch {
	case err != nil:
		return evidence.Unknown, err.Error(), nil
	case !applied:
		return evidence.NotApplied, "", nil
	}
	return evidence.Applied, "", replicated(conn)
}

// verified asks the user.
func (l *lostCommit) verified(ctx context.Context, conn *pgxpool.Conn) (evidence.Verdict, string, error) {
	applied, err := l.verify(ctx, conn)
	switch {
	case err != nil:
		return evidence.Unknown, "Verify failed: " + err.Error(), nil
	case applied:
		return evidence.Applied, "", nil
	}
	return evidence.NotApplied, "", nil
}
