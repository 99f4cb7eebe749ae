package workload

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// masterPace is the time between two writes to a node that accepts them.
	masterPace = 5 * time.Millisecond
	// calmPace is the time between two probes of a standby while another node accepts writes. calmRedialPace is the time
	// between two attempts to connect then.
	calmPace       = 20 * time.Millisecond
	calmRedialPace = 100 * time.Millisecond
	// huntPace is the default of Prober.Pace, and redialPace the time between two attempts to connect in that state.
	huntPace   = 2 * time.Millisecond
	redialPace = 10 * time.Millisecond

	// probeLimit is the time limit of one probe and of one attempt to connect.
	probeLimit = time.Second

	readOnlyTransaction = "25006" // SQLSTATE of a write to a standby
	undefinedTable      = "42P01" // SQLSTATE of a write before the table exists, also on a promoted standby that lags far behind
)

// ProbeSchema makes the table that a [Prober] writes to, and drops an older one.
const ProbeSchema = `
drop table if exists hasql_probe;
create table hasql_probe (at timestamptz not null);
insert into hasql_probe values (now());`

// TimelineSQL is an expression for the timeline of a master. It has the new value from the moment of the promotion.
const TimelineSQL = `('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int`

const probeSQL = `update hasql_probe set at = clock_timestamp() returning ` + TimelineSQL

// Prober writes to one node over a direct connection, without the library, and so finds out when the node accepts writes.
// It asks a standby whether it has been promoted before it writes, so that the standby's log does not fill with errors.
type Prober struct {
	// Connect opens the connection. It is called again after a connection was lost.
	Connect func(context.Context) (*pgx.Conn, error)

	// Accepted is called in Run's goroutine for each write that the node accepted. A new master accepted writes at about
	// the time sent.
	Accepted func(sent, done time.Time, timeline uint32)

	// Calm reports whether another node accepts writes at the moment. Then the node is probed less often. Default nil:
	// never.
	Calm func() bool

	// Pace is the time between two probes of a standby while no node accepts writes. Default: 2 ms.
	Pace time.Duration
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, probeLimit)
		conn, err := p.Connect(limited)
		cancel()
		if err == nil {
			p.probe(ctx, conn)
			CloseNow(conn)
		}
		_ = Sleep(ctx, p.pace(calmRedialPace, redialPace)) // the loop checks ctx
	}
}

// probe probes over one connection until it fails or ctx ends.
func (p *Prober) probe(ctx context.Context, conn *pgx.Conn) {
	standby := true
	for {
		var err error
		if standby {
			standby, err = recovering(ctx, conn)
		}
		if err == nil && !standby {
			err = p.write(ctx, conn)
			if refused(err) {
				standby, err = true, nil
			}
		}
		pace := masterPace
		if standby {
			pace = p.pace(calmPace, cmp.Or(p.Pace, huntPace))
		}
		if err != nil || Sleep(ctx, pace) != nil {
			return
		}
	}
}

func recovering(ctx context.Context, conn *pgx.Conn) (recovering bool, err error) {
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	err = conn.QueryRow(limited, "select pg_is_in_recovery()").Scan(&recovering)
	return recovering, err
}

// write tries to write and reports a success.
func (p *Prober) write(ctx context.Context, conn *pgx.Conn) error {
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	sent := time.Now()
	var timeline int32
	if err := conn.QueryRow(limited, probeSQL).Scan(&timeline); err != nil {
		return err
	}
	p.Accepted(sent, time.Now(), uint32(timeline))
	return nil
}

// pace returns the time until the next attempt: calm while another node accepts writes, else hunt.
func (p *Prober) pace(calm, hunt time.Duration) time.Duration {
	if p.Calm != nil && p.Calm() {
		return calm
	}
	return hunt
}

// refused reports whether the node refused a write. The connection can be used further then.
func refused(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pgErr.Code == readOnlyTransaction || pgErr.Code == undefinedTable)
}

// CloseNow ends a connection without waiting for its server, which may hang.
func CloseNow(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx) // the socket is closed either way
}

// Sleep waits, or fails with the cause of ctx's end.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
