package hasql

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pghasql/hasql/internal/pgfake"
)

func TestAcquireThatFindsNoNodeHasTheNodesAsked(t *testing.T) {
	for _, interval := range []time.Duration{DefaultCheckInterval, time.Minute} {
		for name, test := range map[string]struct {
			lose, bring func(c *pgfake.Cluster)
			acquire     func(pm *PoolManager) *Route
		}{
			"a replica comes back": {
				func(c *pgfake.Cluster) { c.Node("pg2").Kill(); c.Node("pg3").Kill() },
				func(c *pgfake.Cluster) { c.Node("pg3").Start() },
				func(pm *PoolManager) *Route { return pm.Replica() },
			},
			"a replica is promoted": {
				func(c *pgfake.Cluster) { c.Node("pg1").Kill() },
				func(c *pgfake.Cluster) { c.Node("pg2").Promote() },
				func(pm *PoolManager) *Route { return pm.Master() },
			},
		} {
			for i := range 2 {
				bubble(t, func(t *testing.T, c *pgfake.Cluster) {
					pm := open(t, c, func(config *Config) { config.CheckInterval = interval })
					ready(t, pm)
					test.lose(c)
					time.Sleep(6*time.Minute + time.Duration(i)*interval/2)
					test.bring(c)
					time.Sleep(time.Millisecond)
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					defer cancel()
					took := timed(func() {
						conn, err := test.acquire(pm).Acquire(ctx)
						if err != nil {
							t.Errorf("CheckInterval %v, %s: %v", interval, name, err)
							return
						}
						conn.Release()
					})
					if took > requestInterval*11/10+DefaultRecoveryInterval { // dials back off to a quarter of a second, and 10 %
						t.Errorf("CheckInterval %v, %s: it took %v", interval, name, took)
					}
				})
			}
		}
	}
}

func TestManyWaitersWishForNoMoreThanOne(t *testing.T) {
	const watched = 5 * time.Second
	// probes counts how often nodes were asked while so many acquires waited, each for so long and then once more.
	probes := func(waiters int, budget time.Duration) (asked1, asked2, dials3 int) {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) { config.CheckInterval = time.Hour })
			ready(t, pm)
			c.Node("pg3").Kill()
			c.Node("pg2").SetDefaultReadOnly(true)
			c.Node("pg1").Kill()
			time.Sleep(time.Hour) // the hunt is over
			c.Node("pg1").Start() // and somebody noticed
			if err := pm.WaitNextCheck(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Node("pg2").Kill()
			synctest.Wait()
			asked1, asked2, dials3 = asked(c.Node("pg1")), c.Node("pg2").Dials(), c.Node("pg3").Dials()
			ctx, cancel := context.WithTimeout(t.Context(), watched)
			defer cancel()
			var all sync.WaitGroup
			for range waiters {
				all.Go(func() {
					for ctx.Err() == nil {
						ctx, cancel := context.WithTimeout(ctx, budget)
						if conn, err := pm.AcquireReplica(ctx); err == nil {
							conn.Release()
							t.Error("got a connection")
						}
						cancel()
					}
				})
				time.Sleep(time.Millisecond)
			}
			all.Wait()
			asked1, asked2, dials3 = asked(c.Node("pg1"))-asked1, c.Node("pg2").Dials()-asked2, c.Node("pg3").Dials()-dials3
		})
		return asked1, asked2, dials3
	}
	most := int(watched/requestInterval) + 2
	for _, test := range []struct {
		waiters int
		budget  time.Duration
	}{{1, watched}, {20, watched}, {10, 30 * time.Millisecond}} {
		master, replica, other := probes(test.waiters, test.budget)
		if master > 2 || replica > most+most/10 || other > most+most/10 || replica < most/2 || other < most/2 {
			t.Errorf("%d waiters of %v each: the master was asked %d times, the replicas %d and %d, not %d",
				test.waiters, test.budget, master, replica, other, most)
		}
	}
}

func TestReadAtLeastAsksNoMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		time.Sleep(time.Minute)
		c.Node("pg2").PauseReplay()
		c.Node("pg3").PauseReplay()
		if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
			t.Fatal(err)
		}
		route := pm.Replica(AtLeast(LSN(c.Node("pg1").State().LSN)))
		master, replica := asked(c.Node("pg1")), asked(c.Node("pg2"))
		for range 10 { // each anew is eager at first
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if conn, err := route.Acquire(ctx); err == nil {
				conn.Release()
				t.Error("got a connection")
			}
			cancel()
		}
		master, replica = asked(c.Node("pg1"))-master, asked(c.Node("pg2"))-replica
		if master > 12 || replica < 40 { // in 10 s
			t.Errorf("the master was asked %d times, a replica %d times", master, replica)
		}
	})
}
