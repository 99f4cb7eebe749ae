package ecosystem

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
)

// listen subscribes to a channel, and subscribes again whenever its session ends. It calls news after each subscription and
// for each notification. What was notified between two sessions is lost, so news must look up what there is. listen returns
// when ctx ends, or when no master was there for AcquireTimeout.
func listen(ctx context.Context, route *hasql.Route, channel string, news func(context.Context, *pgx.Conn) error) error {
	for {
		var conn *pgx.Conn
		err := route.ConnectFunc(ctx, func(ctx context.Context, config *pgx.ConnConfig) (_ *pgx.Conn, err error) {
			conn, err = pgx.ConnectConfig(ctx, config)
			return conn, err
		})
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize())
		for err == nil {
			if err = news(ctx, conn); err == nil {
				_, err = conn.WaitForNotification(ctx)
			}
		}
		_ = conn.Close(context.WithoutCancel(ctx)) // its session has ended, or ends now
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// A session that listens lives on a connection of its own. The reader sees every order once, also those that were
// notified while it had no session.
func TestListen(t *testing.T) {
	pool := open(t)
	_, err := pool.Master().Exec(t.Context(), `create table listen_orders (number bigint)`)
	must(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan int64, 10_000)
	ended := make(chan error, 1)
	go func() {
		last := int64(0)
		ended <- listen(ctx, pool.Master(), "orders", func(ctx context.Context, conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, `select number from listen_orders where number > $1 order by number`, last)
			if err != nil {
				return err
			}
			_, err = pgx.ForEachRow(rows, []any{&last}, func() error {
				seen <- last
				return nil
			})
			return err
		})
	}()

	var written []int64
	throughCrash(t, "listen_orders", func(ctx context.Context, number int64) error {
		_, err := pool.Master().Exec(ctx, `with written as (insert into listen_orders values ($1)) select pg_notify('orders', '')`, number)
		if err == nil {
			written = append(written, number)
		}
		return err
	})
	for _, want := range written {
		got := int64(0)
		for got < want {
			select {
			case got = <-seen: // a write that failed may have taken effect, and is seen then
			case err := <-ended:
				t.Fatal(err)
			}
		}
		if got != want {
			t.Errorf("saw %d, not %d", got, want)
		}
	}
	cancel()
	<-ended
}
