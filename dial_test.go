package hasql

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgfake"
)

// many acquires connections to the master at once, and returns them with what the last one took.
func many(t *testing.T, pm *PoolManager, n int, budget time.Duration) (conns []*pgxpool.Conn, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), budget)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	took = timed(func() {
		for range n {
			all.Go(func() {
				conn, err := pm.AcquireMaster(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				conns = append(conns, conn)
			})
		}
		all.Wait()
	})
	return conns, took
}

func release(conns []*pgxpool.Conn) {
	for _, conn := range conns {
		conn.Release()
	}
}

func TestPoolOfAHealthyNodeIsFilledAtOnce(t *testing.T) {
	for _, test := range []struct {
		dial  time.Duration
		dials time.Duration // one after the other: 1 if all were made at once
	}{
		{time.Millisecond, 2},       // 2, 48
		{150 * time.Millisecond, 3}, // 2, 14, 34
		{700 * time.Millisecond, 5}, // 2, 4, 8, 16, 20
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MaxConns = 50 }))
			ready(t, pm)
			c.Node("pg1").DialTime(test.dial)
			conns, took := many(t, pm, 50, time.Minute)
			release(conns)
			if took != test.dials*test.dial {
				t.Errorf("50 connections that take %v each: after %v, not %v", test.dial, took, test.dials*test.dial)
			}
		})
	}
}

func TestNodeThatIsBackIsDialledTwiceAtATimeAtFirst(t *testing.T) {
	for name, leave := range map[string]func(n *pgfake.Node){
		"restarted":                    func(n *pgfake.Node) { n.Kill(); at(time.Second, n.Start) },
		"restarted between two probes": func(n *pgfake.Node) { n.Kill(); n.Start() },
		"thawed":                       func(n *pgfake.Node) { n.Freeze(); at(2*time.Second, n.Thaw) },
		"refused a login": func(n *pgfake.Node) {
			n.RefuseLogin("53300", "sorry, too many clients already")
			at(time.Second, n.AcceptLogin)
		},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			tracer := &userTracer{}
			pm := open(t, c, everyPool(func(p *pgxpool.Config) {
				p.MaxConns = 30
				p.ConnConfig.Tracer = tracer
			}))
			ready(t, pm)
			c.Node("pg1").DialTime(time.Millisecond)
			held, _ := many(t, pm, 10, time.Minute)
			defer release(held)
			if tracer.most < 8 {
				t.Errorf("%s: %d dials at once to a healthy node", name, tracer.most)
			}
			leave(c.Node("pg1"))
			if name == "refused a login" {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if _, err := pm.AcquireMaster(ctx); err == nil {
					t.Error("a connection meanwhile")
				}
			}
			time.Sleep(3 * time.Second)
			c.Node("pg1").DialTime(100 * time.Millisecond)
			var all sync.WaitGroup
			defer all.Wait()
			all.Go(func() {
				conns, _ := many(t, pm, 10, time.Minute)
				release(conns)
			})
			time.Sleep(50 * time.Millisecond)
			tracer.mu.Lock()
			defer tracer.mu.Unlock()
			if tracer.now != nodepool.FirstDials {
				t.Errorf("%s: %d dials at once when it is back", name, tracer.now)
			}
		})
	}
}

func TestDialsThatFailTogetherAreOneFailure(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MaxConns = 30 }))
		ready(t, pm)
		held, _ := many(t, pm, 10, time.Minute)
		defer release(held)
		c.Node("pg1").DialTime(10 * time.Millisecond)
		c.Node("pg1").RefuseLogin("53300", "sorry, too many clients already")
		at(15*time.Millisecond, c.Node("pg1").AcceptLogin)
		conns, took := many(t, pm, 20, time.Minute)
		release(conns)
		if took > 60*time.Millisecond { // three dials one after the other, and short pauses between
			t.Errorf("connected after %v", took)
		}
	})
}
