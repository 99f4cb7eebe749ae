package hasql

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/pgerr"
)

// Checker asks one node for its role. The default is [StandardChecker].
type Checker interface {
	// Check sends its question over conn, the connection of the node's monitor, and returns the answer. For each node it
	// is called once at a time. It must return soon after ctx ends, must leave no transaction open and must not keep
	// conn. An error means that nothing is known about the node. After an error of the server (*pgconn.PgError) the
	// connection stays in use. A panic counts as an error.
	Check(ctx context.Context, conn *pgx.Conn) (Report, error)
}

// CheckerFunc makes a [Checker] from a function.
type CheckerFunc func(ctx context.Context, conn *pgx.Conn) (Report, error)

// Check calls f.
func (f CheckerFunc) Check(ctx context.Context, conn *pgx.Conn) (Report, error) { return f(ctx, conn) }

// StandardChecker takes the role from transaction_read_only, as libpq's target_session_attrs=read-write does. The same
// round trip tells the WAL position and the timeline, and on a new connection also the system identifier and the start
// time. It needs no grant on PostgreSQL 13 to 18.
//
// A server may refuse that question: a product that speaks PostgreSQL's protocol, or a server on which those functions
// were revoked. Then StandardChecker asks for transaction_read_only alone. Lag, timeline and identity of the node stay
// unknown, and [Report.Limited] says why. The refusal may pass, for example one for a missing file. So the full question
// is asked again on that connection after 5 s, and then after twice as long each time, up to 5 min.
type StandardChecker struct{}

// stateProbe guards what is an error during recovery, or outside it, by CASE. A promotion in the middle of the statement
// does no harm, as recovery only ever ends. pg_walfile_name is right from the moment of promotion, while
// pg_control_checkpoint lags by the end-of-recovery checkpoint, seconds later. A standby tells the timeline it receives to
// roles with pg_monitor only; to others it is null. received_tli is what it has asked for, also of a master that has no such
// timeline: it counts once something was received. The end of recovery stays what it was when a promotion, or a start after a crash,
// was through; the timeline of the recovery point is late, but everybody may know it.
const stateProbe = `select current_setting('transaction_read_only'),
 pg_is_in_recovery(),
 case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver where flushed_lsn > receive_start_lsn)
  else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 end,
 ((case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end) - '0/0'::pg_lsn)::int8,
 case when pg_is_in_recovery() then (extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000000)::int8 end,
 case when not pg_is_in_recovery() then (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8 end,
 case when pg_is_in_recovery() then (select min_recovery_end_timeline from pg_control_recovery()) end`

// stateName is the name of the prepared stateProbe.
const stateName = "hasql_probe"

// fullProbe also asks for what cannot change while a connection lasts.
const fullProbe = stateProbe + `,
 (select system_identifier from pg_control_system()),
 (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8,
 pg_backend_pid()`

// basicProbe is one simple SHOW, which every product that speaks PostgreSQL's protocol understands.
const basicProbe = `show transaction_read_only`

// session is what a StandardChecker stores with a connection, in its custom data.
type session struct {
	identity *Report       // of the full probe
	standby  bool          // whether it has seen the node in recovery
	line     uint32        // on which timeline; 0 if that is unknown
	prepared bool          // whether stateProbe is
	refusal  error         // of the full probe, nil unless it was refused when it was asked last
	pause    time.Duration // between two full probes that are refused
	fullAt   time.Time     // when the next one is due, after a refusal
}

// A full probe that is refused costs a round trip and a line in the server's log. So it is asked less and less often.
const (
	minRefusalPause = 5 * time.Second
	maxRefusalPause = 5 * time.Minute
)

const sessionKey = "hasql"

// Check implements [Checker]. It blocks until the answer comes or ctx ends.
func (StandardChecker) Check(ctx context.Context, conn *pgx.Conn) (Report, error) {
	pg := conn.PgConn()
	s, ok := pg.CustomData()[sessionKey].(*session)
	if !ok {
		s = new(session)
		pg.CustomData()[sessionKey] = s
	}
	if s.refusal != nil && time.Now().Before(s.fullAt) {
		return s.basic(ctx, pg)
	}
	if s.identity != nil {
		report, err := s.state(ctx, pg)
		if !pgerr.IsStatementRefusal(err) || pg.IsClosed() {
			return report, err
		}
		_ = pg.Deallocate(ctx, stateName) // the server no longer knows the statement or no longer allows it: begin again
		*s = session{}
	}
	report, err := s.full(ctx, pg)
	switch {
	case err == nil:
		s.refusal, s.pause = nil, 0
	case pgerr.IsStatementRefusal(err) && !pg.IsClosed():
		s.refuse(err)
		return s.basic(ctx, pg)
	case s.refusal != nil && pgerr.Is[*pgconn.PgError](err) && !pg.IsClosed():
		s.refuse(s.refusal) // this attempt failed for another reason; the basic probe still tells the role
		return s.basic(ctx, pg)
	}
	return report, err
}

// refuse records why the full probe is refused, and when to ask it again.
func (s *session) refuse(err error) {
	s.refusal = err
	s.pause = min(max(2*s.pause, minRefusalPause), maxRefusalPause)
	s.fullAt = time.Now().Add(s.pause)
}

// full asks for everything. Behind a pooler it is used each time, because each probe may reach another server.
func (s *session) full(ctx context.Context, pg *pgconn.PgConn) (Report, error) {
	row, err := only(pg.ExecParams(ctx, fullProbe, nil, nil, nil, nil).Read(), 10)
	if err != nil {
		return Report{}, err
	}
	var r Report
	n := numbers{row: row}
	n.state(&r)
	r.SystemID = uint64(n.at(7))
	if us := n.at(8); us != 0 {
		r.StartTime = time.UnixMicro(us)
	}
	r.Pooler = n.at(9) != int64(pg.PID())
	if n.err == nil && !r.Pooler {
		s.identity = &r
		s.follow(&r, &n)
	}
	return r, n.err
}

// state asks for what can change, by a prepared statement.
func (s *session) state(ctx context.Context, pg *pgconn.PgConn) (r Report, err error) {
	if !s.prepared {
		if _, err := pg.Prepare(ctx, stateName, stateProbe, nil); err != nil {
			return Report{}, err
		}
		s.prepared = true
	}
	row, err := only(pg.ExecPrepared(ctx, stateName, nil, nil, nil).Read(), 7)
	if err != nil {
		return Report{}, err
	}
	r = *s.identity
	n := numbers{row: row}
	n.state(&r)
	s.follow(&r, &n)
	return r, n.err
}

// follow sees a standby become the master: where this session lasts from one to the other, the server has not been restarted
// meanwhile, and its recovery ended where the new timeline branched off. The timeline before is the one that it was on, if the new
// one is the next; the first one has no other before it.
func (s *session) follow(r *Report, n *numbers) {
	switch {
	case r.InRecovery:
		s.standby = true
		s.line = max(s.line, r.Timeline, uint32(n.at(6)))
	case s.standby && (s.line+1 == r.Timeline || r.Timeline == 2):
		r.BranchedFrom = r.Timeline - 1
	}
}

// basic asks for the role alone.
func (s *session) basic(ctx context.Context, pg *pgconn.PgConn) (Report, error) {
	row, err := only(pg.ExecParams(ctx, basicProbe, nil, nil, nil, nil).Read(), 1)
	if err != nil {
		return Report{}, err
	}
	role := roleOf(row[0])
	return Report{Role: role, InRecovery: role == RoleReplica, Limited: s.refusal}, nil
}

// only returns the single row of a probe's answer.
func only(result *pgconn.Result, columns int) ([][]byte, error) {
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != columns {
		return nil, fmt.Errorf("probe: the answer has %d rows instead of one row with %d columns", len(result.Rows), columns)
	}
	return result.Rows[0], nil
}

// numbers reads the columns of a probe's answer. NULL becomes 0, which means unknown.
type numbers struct {
	row [][]byte
	err error
}

func (n *numbers) at(column int) int64 {
	if n.row[column] == nil {
		return 0
	}
	v, err := strconv.ParseInt(string(n.row[column]), 10, 64)
	n.err = errors.Join(n.err, err)
	return v
}

// state reads the columns of stateProbe.
func (n *numbers) state(r *Report) {
	r.Role = roleOf(n.row[0])
	r.InRecovery = string(n.row[1]) == "t"
	r.Timeline = uint32(n.at(2))
	r.LSN = LSN(n.at(3))
	r.ReplayDelay = time.Duration(n.at(4)) * time.Microsecond
	r.RecoveryEnd = LSN(n.at(5))
}

// roleOf returns RoleUnknown for anything but on and off: an empty answer during a switchover must not look writable.
func roleOf(transactionReadOnly []byte) Role {
	switch string(transactionReadOnly) {
	case "off":
		return RoleMaster
	case "on":
		return RoleReplica
	}
	return RoleUnknown
}
