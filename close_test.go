package hasql

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgfake"
)

// silently is an AfterConnect hook that a silent server keeps from ending.
func silently(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "select pg_sleep(3600)")
	return err
}

// A connection that pgxpool makes for MinConns has no caller whose context would end.
func TestCloseWaitsForNoConnectionThatIsBeingMade(t *testing.T) {
	for name, hang := range map[string]func(*pgfake.Cluster, *pgxpool.Config){
		"dial":          func(c *pgfake.Cluster, _ *pgxpool.Config) { c.Node("pg1").Cut() },
		"login":         func(c *pgfake.Cluster, _ *pgxpool.Config) { c.Node("pg1").Freeze() },
		"AfterConnect":  func(_ *pgfake.Cluster, p *pgxpool.Config) { p.AfterConnect = silently },
		"BeforeConnect": func(_ *pgfake.Cluster, p *pgxpool.Config) { p.BeforeConnect = untilTheEnd },
	} {
		for _, conns := range []int32{1, 4} { // fewer and more than are let in at once
			t.Run(fmt.Sprintf("%s of %d", name, conns), func(t *testing.T) {
				bubble(t, func(t *testing.T, c *pgfake.Cluster) {
					pm := open(t, c, everyPool(func(p *pgxpool.Config) {
						p.MinConns, p.ConnConfig.ConnectTimeout = conns, time.Hour
						hang(c, p)
					}))
					time.Sleep(time.Second)
					var err error
					if took := timed(func() { err = pm.Close(t.Context()) }); took != 0 || err != nil {
						t.Errorf("Close took %v: %v", took, err)
					}
					c.Node("pg1").Thaw()
					c.Node("pg1").Heal()
				})
			})
		}
	}
}

// untilTheEnd is a BeforeConnect hook that asks a service which does not answer.
func untilTheEnd(ctx context.Context, _ *pgx.ConnConfig) error {
	<-ctx.Done()
	return ctx.Err()
}

// What uses a connection outlasts the beginning of Close: the user's work, and his own connections.
func TestCloseEndsNoConnectionThatIsInUse(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		config := conn.Conn().Config()
		closed := make(chan error)
		go func() { closed <- pm.Close(context.Background()) }()
		time.Sleep(time.Second)
		c.Node("pg1").DialTime(time.Second)
		own, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []*pgx.Conn{conn.Conn(), own} {
			if err := c.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		}
		conn.Release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		_ = own.Close(t.Context())
	})
}
