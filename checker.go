package hasql

import (
	"context"
	"errors"
	"fmt"
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
// the same round trip learns the position in the WAL, the timeline, the system identifier and the start time. It needs
// no grant on PostgreSQL 13 to 18. A server that refuses the full question (a product that speaks PostgreSQL's protocol,
// a server on which those functions were revoked) is asked for transaction_read_only alone on that connection from then
// on; its lag, timeline and identity remain unknown, and [Report.Limited] says why.
type StandardChecker struct{}

// fullProbe guards what is an error during recovery, or outside it, by CASE. A promotion in the middle of the statement
// does no harm, as recovery only ever ends. pg_walfile_name is right from the moment of promotion, while
// pg_control_checkpoint lags by the end-of-recovery checkpoint, seconds later. A standby tells the timeline it receives to
// roles with pg_monitor only; to others it is null.
const fullProbe = `select current_setting('transaction_read_only'),
 pg_is_in_recovery(),
 (select system_identifier from pg_control_system()),
 case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver)
  else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 end,
 ((case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end) - '0/0'::pg_lsn)::int8,
 case when pg_is_in_recovery() then (extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000000)::int8 end,
 (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8,
 pg_backend_pid()`

// basicProbe is one simple SHOW, which anything that calls itself PostgreSQL understands.
const basicProbe = `show transaction_read_only`

// basicOnly marks, in the connection's custom data, a server that has refused the full probe.
const basicOnly = "hasql: basic probe only"

// Check implements [Checker]. It blocks until the answer or the end of ctx.
func (StandardChecker) Check(ctx context.Context, conn *pgx.Conn) (Report, error) {
	pg := conn.PgConn()
	if pg.CustomData()[basicOnly] == nil {
		row, err := probe(ctx, pg, fullProbe, 8)
		if err == nil {
			return parseFull(row, pg.PID())
		}
		if _, refused := errors.AsType[*pgconn.PgError](err); !refused || pg.IsClosed() {
			return Report{}, err
		}
		pg.CustomData()[basicOnly] = err
	}
	row, err := probe(ctx, pg, basicProbe, 1)
	if err != nil {
		return Report{}, err
	}
	role := roleOf(row[0])
	refusal, _ := pg.CustomData()[basicOnly].(error)
	return Report{Role: role, InRecovery: role == RoleReplica, Limited: refusal}, nil
}

// probe runs a statement without parameters in one round trip, without leaving a prepared statement behind a pooler,
// and returns its only row.
func probe(ctx context.Context, pg *pgconn.PgConn, sql string, columns int) ([][]byte, error) {
	result := pg.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != columns {
		return nil, fmt.Errorf("probe: %d rows where one of %d columns was expected", len(result.Rows), columns)
	}
	return result.Rows[0], nil
}

func parseFull(row [][]byte, pid uint32) (r Report, err error) {
	number := func(i int) int64 { // NULL is 0, unknown
		if row[i] == nil {
			return 0
		}
		n, e := strconv.ParseInt(string(row[i]), 10, 64)
		err = errors.Join(err, e)
		return n
	}
	r.Role = roleOf(row[0])
	r.InRecovery = string(row[1]) == "t"
	r.SystemID = uint64(number(2))
	r.Timeline = uint32(number(3))
	r.LSN = LSN(number(4))
	r.ReplayDelay = time.Duration(number(5)) * time.Microsecond
	if us := number(6); us != 0 {
		r.StartTime = time.UnixMicro(us)
	}
	r.Pooler = number(7) != int64(pid)
	return r, err
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
