package hasql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Checker asks one node what it is. The default is [StandardChecker].
type Checker interface {
	// Check sends its question over conn, the connection of the node's monitor, and reports the answer. It is called
	// once at a time for each node. It must return soon after ctx ends, must leave no transaction open and must not
	// keep conn. An error says that nothing is known; one of the server's own (*pgconn.PgError) leaves the connection
	// in use. A panic counts as an error.
	Check(ctx context.Context, conn *pgx.Conn) (Report, error)
}

// CheckerFunc is a function as a [Checker].
type CheckerFunc func(ctx context.Context, conn *pgx.Conn) (Report, error)

// Check calls f.
func (f CheckerFunc) Check(ctx context.Context, conn *pgx.Conn) (Report, error) { return f(ctx, conn) }

// StandardChecker takes the role from transaction_read_only, as libpq's target_session_attrs=read-write does, and in
// the same round trip learns the position in the WAL and the timeline, and on a new connection also the system identifier
// and the start time. It needs no grant on PostgreSQL 13 to 18. A server that refuses that question (a product that speaks
// PostgreSQL's protocol, a server on which those functions were revoked) is asked for transaction_read_only alone on that
// connection from then on; its lag, timeline and identity remain unknown, and [Report.Limited] says why.
type StandardChecker struct{}

// stateProbe guards what is an error during recovery, or outside it, by CASE. A promotion in the middle of the statement
// does no harm, as recovery only ever ends. pg_walfile_name is right from the moment of promotion, while
// pg_control_checkpoint lags by the end-of-recovery checkpoint, seconds later. A standby tells the timeline it receives to
// roles with pg_monitor only; to others it is null. received_tli is what it has asked for, also of a master that has no such
// timeline: it counts once something was received.
const stateProbe = `select current_setting('transaction_read_only'),
 pg_is_in_recovery(),
 case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver where flushed_lsn > receive_start_lsn)
  else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 end,
 ((case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end) - '0/0'::pg_lsn)::int8,
 case when pg_is_in_recovery() then (extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000000)::int8 end`

// stateName is the prepared stateProbe.
const stateName = "hasql_probe"

// fullProbe asks besides for what cannot change while a connection lasts.
const fullProbe = stateProbe + `,
 (select system_identifier from pg_control_system()),
 (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8,
 pg_backend_pid()`

// basicProbe is one simple SHOW, which anything that calls itself PostgreSQL understands.
const basicProbe = `show transaction_read_only`

// session is what a StandardChecker keeps with a connection, in its custom data.
type session struct {
	identity *Report // of the full probe
	prepared bool    // whether stateProbe is
	refusal  error   // of the full probe
}

const sessionKey = "hasql"

// Check implements [Checker]. It blocks until the answer or the end of ctx.
func (StandardChecker) Check(ctx context.Context, conn *pgx.Conn) (Report, error) {
	pg := conn.PgConn()
	s, ok := pg.CustomData()[sessionKey].(*session)
	if !ok {
		s = new(session)
		pg.CustomData()[sessionKey] = s
	}
	if s.refusal != nil {
		return s.basic(ctx, pg)
	}
	if s.identity != nil {
		report, err := s.state(ctx, pg)
		if !refused(err) || pg.IsClosed() {
			return report, err
		}
		_ = pg.Deallocate(ctx, stateName) // it no longer knows the statement, or no longer allows it: begin anew
		*s = session{}
	}
	report, err := s.full(ctx, pg)
	if refused(err) && !pg.IsClosed() {
		s.refusal = err
		return s.basic(ctx, pg)
	}
	return report, err
}

// refused reports whether a server cannot or may not answer a probe at all, in contrast to one that failed this time, or is in
// trouble: broken connections (class 08), conflicts with recovery (40), lack of resources (53), orders to stop (57) and
// internal errors (XX).
func refused(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && len(pgErr.Code) == 5 && !slices.Contains([]string{"08", "40", "53", "57", "XX"}, pgErr.Code[:2])
}

// full asks everything. Behind a pooler it is asked each time, for the server may be another one each time.
func (s *session) full(ctx context.Context, pg *pgconn.PgConn) (Report, error) {
	row, err := only(pg.ExecParams(ctx, fullProbe, nil, nil, nil, nil).Read(), 8)
	if err != nil {
		return Report{}, err
	}
	var r Report
	n := numbers{row: row}
	n.state(&r)
	r.SystemID = uint64(n.at(5))
	if us := n.at(6); us != 0 {
		r.StartTime = time.UnixMicro(us)
	}
	r.Pooler = n.at(7) != int64(pg.PID())
	if n.err == nil && !r.Pooler {
		s.identity = &r
	}
	return r, n.err
}

// state asks what can change, by a prepared statement.
func (s *session) state(ctx context.Context, pg *pgconn.PgConn) (r Report, err error) {
	if !s.prepared {
		if _, err := pg.Prepare(ctx, stateName, stateProbe, nil); err != nil {
			return Report{}, err
		}
		s.prepared = true
	}
	row, err := only(pg.ExecPrepared(ctx, stateName, nil, nil, nil).Read(), 5)
	if err != nil {
		return Report{}, err
	}
	r = *s.identity
	n := numbers{row: row}
	n.state(&r)
	return r, n.err
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

// only returns the only row of a probe.
func only(result *pgconn.Result, columns int) ([][]byte, error) {
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != columns {
		return nil, fmt.Errorf("probe: %d rows where one of %d columns was expected", len(result.Rows), columns)
	}
	return result.Rows[0], nil
}

// numbers reads the columns of a probe. NULL is 0: unknown.
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
}

// roleOf takes anything but on and off for unknown: an empty answer in the middle of a switchover must not look
// writable.
func roleOf(transactionReadOnly []byte) Role {
	switch string(transactionReadOnly) {
	case "off":
		return RoleMaster
	case "on":
		return RoleReplica
	}
	return RoleUnknown
}
