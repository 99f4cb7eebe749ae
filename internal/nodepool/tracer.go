package nodepool

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgxpool"
)

// queryTracer does nothing. pgx requires its methods of every tracer.
type queryTracer struct{}

// TraceQueryStart does nothing.
func (queryTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (queryTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func withTracer(user, ours pgx.QueryTracer) pgx.QueryTracer {
	if user == nil {
		return ours
	}
	return multitracer.New(user, ours)
}

// releaseTracer observes the release of connections.
type releaseTracer struct {
	queryTracer
	pool *Pool
}

// TraceRelease counts a connection as no longer lent. Now and then, and always during a hunt, it compares the server's
// parameters on that connection with the node's state. pgxpool calls it first in Release.
func (t *releaseTracer) TraceRelease(_ *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	p, pg := t.pool, data.Conn.PgConn()
	if p.endedSockets.Load() > 0 {
		p.closeEnded(data.Conn)
	}
	if pg.IsClosed() || pg.IsBusy() || pg.TxStatus() != 'I' {
		p.uncountOpen(data.Conn) // pgxpool will destroy it soon
	}
	p.demand.Add(-1)
	if p.traffic.sampleNext.Load() {
		p.traffic.sampleNext.Store(p.traffic.hunting.Load())
		p.traffic.compare(pg)
	}
}
