package hasql

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgfake"
)

// firstPicker always takes the first of what it is offered.
func firstPicker(config *Config) {
	config.Picker = PickerFunc(func([]Candidate) int { return 0 })
}

// occupy takes every connection of the node that route prefers while its pool is not full.
func occupy(t *testing.T, route *Route, name string) (held []*pgxpool.Conn) {
	t.Helper()
	for range 4 {
		conn := acquire(t, route.Acquire)
		if got := nodeOf(t, conn); got != name {
			t.Fatalf("a connection to %s, not %s", got, name)
		}
		held = append(held, conn)
	}
	return held
}

func releaseAll(conns []*pgxpool.Conn) {
	for _, conn := range conns {
		conn.Release()
	}
}

func TestFullPoolIsNotWaitedForWhileAnotherHasAConnectionToSpare(t *testing.T) {
	for _, open3 := range []bool{false, true} { // whether the other has one open, or has to dial
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, firstPicker)
			ready(t, pm)
			held := occupy(t, pm.Replica(), "pg2")
			defer releaseAll(held)
			if open3 {
				conn := acquire(t, pm.AcquireReplica)
				conn.Release()
			}
			took := timed(func() {
				conn := acquire(t, pm.AcquireReplica)
				defer conn.Release()
				if got := nodeOf(t, conn); got != "pg3" {
					t.Errorf("served by %s", got)
				}
			})
			if took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestZoneSpillsOver(t *testing.T) {
	near := func(n int) []string { return slices.Repeat([]string{"pg2"}, n) }
	far := func(n int) []string { return slices.Repeat([]string{"pg3"}, n) }
	for _, test := range []struct {
		share  float64
		served []string
	}{
		{0, slices.Concat(near(9), far(9), near(1))}, // 0.8
		{0.5, slices.Concat(near(6), far(6), near(4))},
		{1, slices.Concat(near(10), far(10))}, // by those that have waited
	} {
		t.Run(fmt.Sprint(test.share), func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c, func(config *Config) {
					config.ZoneSpillover, config.Nodes[1].Zone = test.share, "near"
					for _, n := range config.Nodes {
						n.Pool.MaxConns = 10
					}
				})
				ready(t, pm)
				time.Sleep(slowStart)
				route := pm.Replica(WithZone("near"))
				var held []*pgxpool.Conn
				for i, want := range test.served {
					conn := acquire(t, route.Acquire)
					held = append(held, conn)
					if got := nodeOf(t, conn); got != want {
						t.Errorf("the %dth connection is of %s, not %s", i+1, got, want)
					}
				}
				releaseAll(held)
				conn := acquire(t, route.Acquire)
				defer conn.Release()
				if node := nodeOf(t, conn); node != "pg2" {
					t.Errorf("with all free again, served by %s", node)
				}
			})
		})
	}
}

func TestFullPoolOfTheOwnZoneIsWaitedForFirst(t *testing.T) {
	near := func(config *Config) { config.ZoneSpillover, config.Nodes[1].Zone = 1, "near" }
	for after, want := range map[time.Duration]string{patience / 2: "pg2", time.Minute: "pg3"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, near)
			ready(t, pm)
			route := pm.Replica(WithZone("near"))
			held := occupy(t, route, "pg2")
			at(after, held[0].Release)
			took := timed(func() {
				conn := acquire(t, route.Acquire)
				defer conn.Release()
				if got := nodeOf(t, conn); got != want {
					t.Errorf("a place came free after %v, served by %s", after, got)
				}
			})
			if took > patience {
				t.Errorf("it took %v", took)
			}
			releaseAll(held[1:])
			time.Sleep(time.Minute)
		})
	}
}

func TestFarNodeIsNoBetterThanAShortWait(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.Picker = Nearest() })
		c.Node("pg3").Latency(100 * time.Millisecond)
		ready(t, pm)
		if err := pm.WaitNextCheck(t.Context()); err != nil {
			t.Fatal(err)
		}
		held := occupy(t, pm.Replica(), "pg2")
		at(patience/2, held[0].Release)
		conn := acquire(t, pm.AcquireReplica)
		if got := nodeOf(t, conn); got != "pg2" {
			t.Errorf("served by %s", got)
		}
		conn.Release()
		releaseAll(held[1:])
	})
}

func TestFullReplicaDoesNotFallBackToTheMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg3").Kill()
		synctest.Wait()
		route := pm.Replica(WithFallbackMaster(true))
		held := occupy(t, route, "pg2")
		at(time.Second, held[0].Release)
		conn := acquire(t, route.Acquire)
		if got := nodeOf(t, conn); got != "pg2" {
			t.Errorf("served by %s", got)
		}
		conn.Release()
		releaseAll(held[1:])
	})
}

// keepBusy has n goroutines hold a connection of a route for a while each, again and again, until the end of the test.
func keepBusy(t *testing.T, route *Route, n int, hold time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				conn, err := route.Acquire(ctx)
				if err != nil {
					return
				}
				time.Sleep(hold)
				conn.Release()
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
}

func TestPoolThatStandsStillIsLeftForOneThatTurnsOver(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, firstPicker, func(config *Config) { config.Nodes[1].Zone, config.Nodes[2].Zone = "hung", "busy" })
		ready(t, pm)
		hung := pm.Replica(WithZone("hung"))
		held := occupy(t, hung, "pg2")
		defer releaseAll(held)
		keepBusy(t, pm.Replica(WithZone("busy")), 8, 10*time.Millisecond) // twice as many as there are connections
		time.Sleep(time.Second)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				var conn *pgxpool.Conn
				if took := timed(func() { conn = acquire(t, hung.Acquire) }); took > time.Second {
					t.Errorf("it took %v", took)
				}
				defer conn.Release()
				if got := nodeOf(t, conn); got != "pg3" {
					t.Errorf("served by %s", got)
				}
				time.Sleep(10 * time.Millisecond)
			})
		}
		all.Wait()
	})
}

func TestSaturatedClusterServesInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = time.Hour })
		ready(t, pm)
		const waiters = 400
		var served atomic.Int32
		var all sync.WaitGroup
		for i := range waiters {
			all.Go(func() {
				conn := acquire(t, pm.AcquireReplica)
				// Eight connections, and two queues of which neither is far ahead of the other.
				if n := int(served.Add(1)); n < i-16 || n > i+16 {
					t.Errorf("the %dth to come is the %dth to be served", i+1, n)
				}
				time.Sleep(time.Second) // longer than anybody's patience
				conn.Release()
			})
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		synctest.Wait()
		for i, p := range poolsOf(pm) {
			if n := p.InUse(); n != 0 {
				t.Errorf("%d connections of node %d count as lent", n, i)
			}
		}
	})
}

func TestFreePlaceIsTakenByOneOfAThousandThatWaitElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) {
			config.Nodes[1].Zone, config.Nodes[2].Zone = "near", "far"
			config.AcquireTimeout = time.Hour
		})
		ready(t, pm)
		near := pm.Replica(WithZone("near"))
		held, others := occupy(t, near, "pg2"), occupy(t, pm.Replica(WithZone("far")), "pg3")
		served := make(chan string, 1000)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				conn, err := near.Acquire(ctx)
				if err != nil {
					return
				}
				served <- nodeOf(t, conn)
				<-ctx.Done()
				conn.Release()
			})
		}
		time.Sleep(10 * time.Second)
		others[0].Release()
		time.Sleep(10 * time.Second)
		// One was served, and one expects to be, by the next place that comes free.
		if n, m := poolsOf(pm)[1].InUse()-4, poolsOf(pm)[2].InUse()-4; len(served) != 1 || n != 998 || m != 1 {
			t.Errorf("%d of a thousand were served, %d still queue at their own node, %d at the other", len(served), n, m)
		}
		cancel()
		all.Wait()
		releaseAll(append(held, others[1:]...))
	})
}

func TestNodeThatComesUpTakesOverFromAQueue(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg3").Kill()
		synctest.Wait()
		held := occupy(t, pm.Replica(), "pg2")
		defer releaseAll(held)
		at(time.Second, c.Node("pg3").Start)
		took := timed(func() {
			conn := acquire(t, pm.AcquireReplica)
			defer conn.Release()
			if got := nodeOf(t, conn); got != "pg3" {
				t.Errorf("served by %s", got)
			}
		})
		if limit := time.Second + DefaultCheckInterval*11/10 + slowStart; took > limit {
			t.Errorf("it took %v", took)
		}
	})
}

// slowPrepare is a hook that takes a while for each connection.
func slowPrepare(d time.Duration) func(*pgxpool.Config) {
	return func(p *pgxpool.Config) {
		p.PrepareConn = func(ctx context.Context, _ *pgx.Conn) (bool, error) {
			select {
			case <-time.After(d):
				return true, nil
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
	}
}

func TestHooksOfTheUsersAreNotCutShortForAnotherNode(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, firstPicker, everyPool(slowPrepare(10*patience)))
		ready(t, pm)
		releaseAll(append(occupy(t, pm.Replica(), "pg2"), acquire(t, pm.AcquireReplica))) // the last one is of pg3
		for range 3 {
			var conn *pgxpool.Conn
			took := timed(func() { conn = acquire(t, pm.AcquireReplica) })
			if got := nodeOf(t, conn); got != "pg2" || took != 10*patience {
				t.Errorf("served by %s after %v", got, took)
			}
			conn.Release()
		}
		if dials := c.Node("pg2").Dials() + c.Node("pg3").Dials(); dials != 2+4+1 {
			t.Errorf("%d dials", dials)
		}
	})
}

func TestPlaceElsewhereIsGivenBackWhenBothComeAtOnce(t *testing.T) {
	for range 20 {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) { config.ZoneSpillover, config.Nodes[1].Zone = 1, "near" })
			ready(t, pm)
			route := pm.Replica(WithZone("near"))
			held := occupy(t, route, "pg2")
			at(patience, held[0].Release) // the very moment in which the other node is looked at
			conn := acquire(t, route.Acquire)
			conn.Release()
			releaseAll(held[1:])
			synctest.Wait()
			for i, p := range poolsOf(pm) {
				if n := p.InUse(); n != 0 {
					t.Errorf("%d connections of node %d count as lent", n, i)
				}
			}
		})
	}
}

func TestWaiterReturnsToANodeWhoseDialFailedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, firstPicker)
		ready(t, pm)
		held := occupy(t, pm.Replica(), "pg2") // full
		defer releaseAll(held)
		c.Node("pg3").RefuseLogin("53300", "sorry, too many clients already")
		at(10*time.Millisecond, c.Node("pg3").AcceptLogin)
		at(100*time.Millisecond, func() { // others have no trouble with pg3
			conn, err := pm.AcquireReplica(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			conn.Release()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		conn, err := pm.AcquireReplica(ctx)
		if err != nil {
			t.Fatal(err)
		}
		conn.Release()
	})
}

func TestConnectionThatIsReleasedAtANodeThatRefusesOthersServesWhoeverWaits(t *testing.T) {
	for name, wait := range map[string]func(t *testing.T, pm *PoolManager) (route *Route, held []*pgxpool.Conn){
		"for that node": func(_ *testing.T, pm *PoolManager) (*Route, []*pgxpool.Conn) { return pm.Master(), nil },
		"in another one's queue": func(t *testing.T, pm *PoolManager) (*Route, []*pgxpool.Conn) {
			return pm.Default(), append(occupy(t, pm.Default(WithZone("near")), "pg2"), occupy(t, pm.Default(WithZone("far")), "pg3")...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c, func(config *Config) { config.Nodes[1].Zone, config.Nodes[2].Zone = "near", "far" })
				ready(t, pm)
				lent := acquire(t, pm.AcquireMaster)
				route, held := wait(t, pm)
				c.Node("pg1").RefuseLogin("53300", "sorry, too many clients already")
				for _, after := range []time.Duration{time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 4500 * time.Millisecond} {
					at(after, lent.Release)
					var conn *pgxpool.Conn
					if took := timed(func() { conn = acquire(t, route.Acquire) }); took > after+maxPatience || took > 2*(after+patience) {
						t.Errorf("released after %v, got after %v", after, took)
					}
					if got := nodeOf(t, conn); got != "pg1" {
						t.Errorf("served by %s", got)
					}
					lent = conn
				}
				lent.Release()
				releaseAll(held)
			})
		})
	}
}

func TestPickerThatPanicsWhileAnAcquireWaitsEndsNoProcess(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var panics atomic.Int64
		var broken atomic.Bool
		pm := open(t, c, func(config *Config) {
			config.Picker = PickerFunc(func([]Candidate) int {
				if broken.Load() {
					panics.Add(1)
					panic("a mistake of the Picker's")
				}
				return 0
			})
		})
		ready(t, pm)
		write := pm.Default()
		held := append(occupy(t, write, "pg1"), append(occupy(t, write, "pg2"), occupy(t, write, "pg3")...)...)
		var waiter sync.WaitGroup
		waiter.Go(func() { acquire(t, write.Acquire).Release() })
		synctest.Wait()
		broken.Store(true)
		releaseAll(held[4:]) // of the others, so that there is a choice of two
		time.Sleep(time.Second)
		if panics.Load() == 0 {
			t.Error("nobody looked for a better place")
		}
		broken.Store(false)
		releaseAll(held[:4])
		waiter.Wait()
	})
}
