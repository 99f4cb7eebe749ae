package nodepool

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pingLongIdle is pgxpool's own rule which connections are pinged before they are lent.
func pingLongIdle(_ context.Context, params pgxpool.ShouldPingParams) bool {
	return params.IdleDuration > time.Second
}

// deferValidation makes pgxpool leave the ping of a connection to validate. pgxpool would ping one connection after the
// other for as long as the caller's context allows, although the node may be known to hang. If a hook of the user runs
// inside Acquire or Release, the ping stays with pgxpool: PrepareConn needs a live connection.
func (p *Pool) deferValidation(should func(context.Context, pgxpool.ShouldPingParams) bool) func(context.Context, pgxpool.ShouldPingParams) bool {
	return func(ctx context.Context, params pgxpool.ShouldPingParams) bool {
		needed := should(ctx, params) || p.traffic.lostSince(params.IdleDuration)
		if !p.hookFree {
			if w, _ := ctx.Value(waitKey{}).(*WaitContext); w != nil {
				w.stopLooking() // a hook works on this connection and must not be interrupted for another connection
			}
			return needed
		}
		if !needed {
			return false
		}
		if _, already := p.needPing.LoadOrStore(params.Conn, nil); !already {
			p.needPingCount.Add(1)
		}
		return false
	}
}

// clearNeedPing notes that a connection needs no ping any more.
func (p *Pool) clearNeedPing(c *pgx.Conn) {
	if _, needed := p.needPing.LoadAndDelete(c); needed {
		p.needPingCount.Add(-1)
	}
}

// validate pings a connection that needs it. If ctx ends before the ping is sent, the connection still needs a ping
// before it is lent next time.
func (p *Pool) validate(ctx context.Context, conn *pgxpool.Conn) error {
	if _, needed := p.needPing.Load(conn.Conn()); !needed {
		return nil
	}
	if err := p.ping(ctx, conn.Ping); err != nil {
		return &LostConnError{err}
	}
	p.clearNeedPing(conn.Conn())
	return nil
}

// ping pings a connection until ctx, the generation or PingTimeout ends.
func (p *Pool) ping(ctx context.Context, send func(context.Context) error) error {
	var w WaitContext
	w.Bind(ctx, p.Generation())
	defer w.Release()
	ctx = &w
	if p.pingTimeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, p.pingTimeout)
		defer stop()
	}
	return send(ctx)
}
