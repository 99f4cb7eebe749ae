package hasql

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgfake"
)

// counted fails the test unless the counts of every pool are what pgxpool says, now that nothing is lent.
func counted(t *testing.T, pm *PoolManager) {
	t.Helper()
	for i, p := range poolsOf(pm) {
		lent, open, total := p.InUse(), p.Open(), int(p.Stat().TotalConns())
		if lent != 0 || open != total {
			t.Errorf("node %d: %d lent; %d open, pgxpool has %d", i, lent, open, total)
		}
		if sockets := len(p.Sockets()); sockets != total {
			t.Errorf("node %d: %d sockets of %d connections", i, sockets, total)
		}
		if doubts := p.NeedPingCount(); doubts < 0 || doubts > total {
			t.Errorf("node %d: %d of %d connections are in doubt", i, doubts, total)
		}
	}
}

func TestCountsAreExactUnderContention(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MaxConns = 64 }))
		ready(t, pm)
		p := poolsOf(pm)[0]
		warm := make([]*pgxpool.Conn, 64)
		for i := range warm {
			warm[i] = acquire(t, pm.AcquireMaster)
		}
		for _, conn := range warm {
			conn.Release()
		}
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for range 2000 {
					conn, err := pm.AcquireMaster(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					conn.Release()
				}
			})
		}
		for range 2000 { // as probes do
			p.Recount()
		}
		all.Wait()
		counted(t, pm)
	})
}

func TestCountsAreExactWhateverBecomesOfConnections(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.MaxConns = 8
			p.MaxConnLifetime = 100 * time.Millisecond
			p.MaxConnLifetimeJitter = 100 * time.Millisecond
			p.HealthCheckPeriod = 50 * time.Millisecond
		}))
		ready(t, pm)
		var mu sync.Mutex
		var hijacked []*pgx.Conn
		use := func(draws *rand.Rand) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(draws.IntN(20))*time.Millisecond)
			defer cancel()
			conn, err := pm.AcquireMaster(ctx)
			if err != nil {
				return
			}
			switch draws.IntN(12) {
			case 0:
				mu.Lock()
				hijacked = append(hijacked, conn.Hijack())
				mu.Unlock()
				return
			case 1:
				_, _ = conn.Exec(ctx, "select pg_sleep(1)") // until ctx ends
			case 2:
				_, _ = conn.Exec(ctx, "begin")
			case 3:
				_ = conn.Conn().Close(ctx)
			case 4:
				c.Node("pg1").Terminate(conn.Conn().PgConn().PID())
			case 5:
				time.Sleep(time.Duration(draws.IntN(20)) * time.Millisecond)
			case 6:
				_ = conn.Ping(ctx)
			}
			conn.Release()
		}
		at(1*time.Second, c.Node("pg1").Kill)
		at(1500*time.Millisecond, c.Node("pg1").Start)
		at(2500*time.Millisecond, c.Node("pg1").Freeze)
		at(3000*time.Millisecond, c.Node("pg1").Thaw)
		at(4*time.Second, c.Node("pg1").Freeze)
		at(8*time.Second, c.Node("pg1").Thaw)
		ctx, stop := context.WithTimeout(t.Context(), 9*time.Second)
		defer stop()
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				for draws := rand.New(rand.NewPCG(1, uint64(i))); ctx.Err() == nil; {
					use(draws)
					time.Sleep(time.Duration(draws.IntN(10)) * time.Millisecond)
				}
			})
		}
		all.Wait()
		if len(hijacked) < 100 {
			t.Errorf("only %d connections were hijacked", len(hijacked))
		}
		for _, conn := range hijacked {
			_ = conn.Close(t.Context())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		counted(t, pm)
	})
}
