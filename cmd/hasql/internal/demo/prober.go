package demo

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The prober asks each node directly, past the library, whether it takes writes. What it finds is the cluster's own
// outage, to put next to the application's.

const (
	// leaderPace is the time between two writes of the prober to the node that accepts them.
	leaderPace = 5 * time.Millisecond
	// calmPace is the time between two questions to a standby while another node accepts writes, redialPace between two
	// attempts to connect.
	calmPace   = 20 * time.Millisecond
	redialPace = 100 * time.Millisecond
	// huntPace and redialHuntPace are the same while nobody does, and huntAfter how long nobody must have.
	huntPace       = 2 * time.Millisecond
	redialHuntPace = 10 * time.Millisecond
	huntAfter      = 40 * time.Millisecond

	// probeLimit is the prober's patience with one question.
	probeLimit = time.Second

	// readOnly is the SQLSTATE of a write to a standby, read_only_sql_transaction.
	readOnly = "25006"
	// undefinedTable is the SQLSTATE of a standby of yesterday that was just promoted, or of tables not made yet.
	undefinedTable = "42P01"
)

// timelineSQL is an expression for the timeline that a master writes. It is right from the moment of promotion.
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
		_ = sleep(ctx, p.pace(redialPace, redialHuntPace)) // the loop looks at ctx
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

// write tries to write. When it works, the node accepted writes a moment after the attempt was sent at the latest.
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

// pace returns how long to wait until the next question: calm while somebody accepts writes, else hunt.
func (p *prober) pace(calm, hunt time.Duration) time.Duration {
	if p.book.quiet(time.Since(p.began)) > huntAfter {
		return hunt
	}
	return calm
}

// refused reports whether a node answered a write with no, so that its connection goes on.
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
