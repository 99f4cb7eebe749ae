package nodepool

import (
	"context"
	"sync/atomic"
	"time"

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
	n, pg := t.pool, data.Conn.PgConn()
	if n.endedSockets.Load() > 0 {
		n.closeEnded(data.Conn)
	}
	if pg.IsClosed() || pg.IsBusy() || pg.TxStatus() != 'I' {
		n.uncountOpen(data.Conn) // pgxpool will destroy it soon
	}
	n.demand.Add(-1)
	if n.traffic.sampleNext.Load() {
		n.traffic.sampleNext.Store(n.traffic.hunting.Load())
		n.traffic.compare(pg)
	}
}

// Attempt is one attempt to connect. It has a place in the dial gate, and learns which socket the connection got.
type Attempt struct {
	queryTracer
	pool   *Pool
	began  time.Time // when it was let in
	era    int       // of the gate at that time
	socket *Socket   // the last one that was opened
	over   atomic.Bool
	done   context.CancelFunc // releases its context

	guest   bool        // whether a guest connects, and not the node's pool
	resets  uint64      // the pool's resets when the attempt began
	settled atomic.Bool // whether Settle was called
}

// opened records a socket of the attempt. Later sockets carry cancel requests, or are the user's.
func (t *Attempt) opened(s *Socket) {
	if !t.over.Load() {
		t.socket = s
	}
}

// connects is a context key. It tells dials that connect from dials of cancel requests.
type connects struct{}

// TraceConnectStart marks the context of the attempt's dials, and makes it end with the pool. A connection that the user
// makes with the configuration of a pooled connection does not end with the pool.
func (t *Attempt) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	if !t.over.Load() {
		ctx, t.done = t.pool.untilEnd(ctx)
	}
	return context.WithValue(ctx, connects{}, true)
}

// TraceConnectEnd gives the place in the gate back, once. A connection that the user makes with the configuration of a
// pooled connection comes here too.
func (t *Attempt) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	if t.over.Swap(true) {
		return
	}
	t.done()
	t.left(data.Err)
	if data.Err != nil {
		t.pool.traffic.watcher.SuggestCheck() // the monitor finds out whether the node is the reason
	} else if t.socket != nil {
		data.Conn.PgConn().CustomData()[socketKey] = t.socket
		t.pool.traffic.noteSession(data.Conn.PgConn(), t.socket)
	}
	if t.guest {
		t.Settle(data.Err)
	}
}

// TraceQueryEnd notes a commit that the server has confirmed before it sent an error: pgx's Commit drops the tag. A server that logs
// the duration of statements looks behind the commit for an order to end the session, or to cancel the statement.
func (*Attempt) TraceQueryEnd(_ context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err == nil || data.CommandTag.String() != "COMMIT" {
		return
	}
	if s := socketOf(conn); s != nil {
		s.committed = true
	}
}

// left gives the place back, and tells the gate whether the attempt succeeded.
func (t *Attempt) left(err error) {
	if err == nil {
		t.pool.dials.succeeded(time.Since(t.began))
	} else {
		t.pool.dials.failed(t.era, err)
	}
	t.pool.dials.leave()
}
