package demo

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The prober writes to each node over a direct connection, without the library. So it measures the outage of the cluster
// itself, to compare with the outage of the application.

const (
	// leaderPace is the time between two writes to the node that accepts them.
	leaderPace = 5 * time.Millisecond
	// calmPace is the time between two probes of a standby while another node accepts writes. redialPace is the time between
	// two attempts to connect then.
	calmPace   = 20 * time.Millisecond
	redialPace = 100 * time.Millisecond
	// huntPace and redialHuntPace are the same times while no node accepts writes. They apply after huntAfter without a write.
	huntPace       = 2 * time.Millisecond
	redialHuntPace = 10 * time.Millisecond
	huntAfter      = 40 * time.Millisecond

	// probeLimit is the time limit of one probe.
	probeLimit = time.Second

	// readOnly is the SQLSTATE of a write to a standby, read_only_sql_transaction.
	readOnly = "25006"
	// undefinedTable is the SQLSTATE of a write before the tables exist, also on a promoted standby that lags far behind.
	undefinedTable = "42P01"
)

// timelineSQL is an expression for the timeline of a master. It has the new value from the moment of the promotion.
const timelineSQL = `('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int`

const probeSQL = `update hasql_demo_probe set at = clock_timestamp() returning ` + timelineSQL

// prober watches one node.
type prober struct {
	node   int
	config *pgx.ConnConfig
	began  time.Time
	book   *book
	found  func(answer) // called when the node is found to be the new master
}

// run probes until ctx ends.
func (p *prober) run(ctx context.Context) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, probeLimit)
		conn, err := pgx.ConnectConfig(limited, p.config)
		cancel()
		if err == nil {
			p.watch(ctx, conn)
			closeNow(conn)
		}
		_ = sleep(ctx, p.pace(redialPace, redialHuntPace)) // the loop checks ctx
	}
}

// watch probes over one connection until it fails.
func (p *prober) watch(ctx context.Context, conn *pgx.Conn) {
	standby := true
	for {
		var err error
		if standby {
			standby, err = p.recovering(ctx, conn)
		}
		pace := p.pace(calmPace, huntPace)
		if err == nil && !standby {
			pace = leaderPace
			err = p.write(ctx, conn)
			if refused(err) {
				standby, pace, err = true, p.pace(calmPace, huntPace), nil
			}
		}
		if err != nil || sleep(ctx, pace) != nil {
			return
		}
	}
}

func (p *prober) recovering(ctx context.Context, conn *pgx.Conn) (recovering bool, err error) {
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	err = conn.QueryRow(limited, "select pg_is_in_recovery()").Scan(&recovering)
	return recovering, err
}

// write tries to write and records a success.
func (p *prober) write(ctx context.Context, conn *pgx.Conn) error {
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	sent := time.Now()
	var timeline int32
	if err := conn.QueryRow(limited, probeSQL).Scan(&timeline); err != nil {
		return err
	}
	a := answer{sent.Sub(p.began), time.Since(p.began), p.node, uint32(timeline)}
	if p.book.accepted(a) {
		p.found(a)
	}
	return nil
}

// pace returns the time until the next probe: calm while some node accepts writes, else hunt.
func (p *prober) pace(calm, hunt time.Duration) time.Duration {
	if p.book.quiet(time.Since(p.began)) > huntAfter {
		return hunt
	}
	return calm
}

// refused reports whether the node refused the write. The connection can be used further then.
func refused(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pgErr.Code == readOnly || pgErr.Code == undefinedTable)
}

// closeNow ends a connection without waiting for its server, which may hang.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx) // the socket is closed either way
}

// sleep waits, or fails when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
