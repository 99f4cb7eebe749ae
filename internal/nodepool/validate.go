package nodepool

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// deferValidation makes pgxpool leave the ping of long-idle connections to validate. pgxpool would ping one connection
// after the other for as long as the caller's context allows, although the node may be known to hang. Only if a user's
// hook needs a live connection (PrepareConn) does the ping stay with pgxpool.
func (n *Pool) deferValidation(should func(context.Context, pgxpool.ShouldPingParams) bool) func(context.Context, pgxpool.ShouldPingParams) bool {
	if should == nil {
		should = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > time.Second }
	}
	return func(ctx context.Context, p pgxpool.ShouldPingParams) bool {
		needed := should(ctx, p) || n.traffic.lostSince(p.IdleDuration)
		if !n.simple {
			if w, _ := ctx.Value(waitKey{}).(*Wait); w != nil {
				w.keep() // a hook works on this connection and must not be interrupted for another connection
			}
			return needed
		}
		if !needed {
			return false
		}
		if _, already := n.unvalidated.LoadOrStore(p.Conn, nil); !already {
			n.toValidate.Add(1)
		}
		return false
	}
}

func (n *Pool) validated(c *pgx.Conn) {
	if _, needed := n.unvalidated.LoadAndDelete(c); needed {
		n.toValidate.Add(-1)
	}
}

// validate pings a connection that needs it. If ctx ends before the ping is sent, the connection still needs a ping
// before it is lent next time.
func (n *Pool) validate(ctx context.Context, conn *pgxpool.Conn) error {
	if _, needed := n.unvalidated.Load(conn.Conn()); !needed {
		return nil
	}
	if err := n.ping(ctx, conn.Ping); err != nil {
		return &LostConnError{err}
	}
	n.validated(conn.Conn())
	return nil
}

// ping pings a connection until ctx, the generation or PingTimeout ends.
func (n *Pool) ping(ctx context.Context, send func(context.Context) error) error {
	var w Wait
	w.Bind(ctx, n.Generation())
	defer w.Release()
	ctx = &w
	if n.pingTimeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, n.pingTimeout)
		defer stop()
	}
	return send(ctx)
}
