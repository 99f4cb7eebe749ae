package hasql

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/pgfake"
)

// nodeConfigs are those of the named nodes.
func nodeConfigs(t *testing.T, c *pgfake.Cluster, names ...string) (configs []NodeConfig) {
	t.Helper()
	for _, name := range names {
		config, err := ParseConfig(c.Node(name).DSN() + "&pool_max_conns=4")
		if err != nil {
			t.Fatal(err)
		}
		config.Nodes[0].Pool.ConnConfig.DialFunc = c.Dial
		config.Nodes[0].Pool.ConnConfig.LookupFunc = c.Lookup
		configs = append(configs, config.Nodes[0])
	}
	return configs
}

// states are the nodes of a snapshot, each with its status.
func states(s *Snapshot) string {
	var list []string
	for n := range s.Nodes() {
		name, _, _ := strings.Cut(n.Name, ":")
		list = append(list, name+" "+n.Status.String())
	}
	return strings.Join(list, ", ")
}

func nameOf(pm *PoolManager, host string) string {
	for n := range pm.Snapshot().Nodes() {
		if strings.HasPrefix(n.Name, host+":") {
			return n.Name
		}
	}
	return host
}

func setNodes(t *testing.T, pm *PoolManager, c *pgfake.Cluster, names ...string) {
	t.Helper()
	if err := pm.SetNodes(t.Context(), nodeConfigs(t, c, names...)); err != nil {
		t.Fatal(err)
	}
}

func TestNodeJoins(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.Nodes = config.Nodes[:2] })
		if err := pm.Ready(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		c.Node("pg3").Latency(100 * time.Microsecond) // else it may have answered at once
		setNodes(t, pm, c, "pg1", "pg2", "pg3")
		if got := states(pm.Snapshot()); got != "pg1 up, pg2 up, pg3 suspect" {
			t.Errorf("at once: %s", got)
		}
		began := time.Now()
		if err := pm.Ready(t.Context(), 1, 2); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > DefaultRecoveryInterval {
			t.Errorf("it was probed after %v", took)
		}
		time.Sleep(slowStart)
		reads := make(map[string]int)
		for range 200 {
			conn := acquire(t, pm.AcquireReplica)
			reads[nodeOf(t, conn)]++
			conn.Release()
		}
		if reads["pg2"] < 50 || reads["pg3"] < 50 {
			t.Errorf("reads: %v", reads)
		}
	})
}

func TestNodeLeavesWhenItsLastConnectionIsReleased(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireReplica)
		left := nodeOf(t, lent)
		other := map[string]string{"pg2": "pg3", "pg3": "pg2"}[left]
		before := pm.Stat().Target(TargetReplica).Acquires
		setNodes(t, pm, c, "pg1", other)
		if got := states(pm.Snapshot()); got != "pg1 up, "+other+" up, "+left+" banned" {
			t.Errorf("at once: %s", got)
		}
		for range 20 {
			conn := acquire(t, pm.AcquireReplica)
			if got := nodeOf(t, conn); got != other {
				t.Errorf("a read went to %s", got)
			}
			conn.Release()
		}
		time.Sleep(time.Minute)
		if got := nodeOf(t, lent); got != left {
			t.Errorf("the connection in use leads to %s", got)
		}
		lent.Release()
		time.Sleep(2 * DefaultCheckInterval)
		if got := states(pm.Snapshot()); got != "pg1 up, "+other+" up" {
			t.Errorf("in the end: %s", got)
		}
		synctest.Wait()
		if n := c.Node(left).Conns(); n != 0 {
			t.Errorf("%d sessions of %s are left", n, left)
		}
		if now := pm.Stat().Target(TargetReplica).Acquires; now != before+20 {
			t.Errorf("%d acquires, and %d before", now, before)
		}
	})
}

func TestMasterLeavesOnceThereIsAnother(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		setNodes(t, pm, c, "pg2", "pg3")
		time.Sleep(time.Minute)
		conn := acquire(t, pm.AcquireMaster)
		if got := nodeOf(t, conn); got != "pg1" {
			t.Errorf("a write went to %s", got)
		}
		conn.Release()
		c.Node("pg2").Promote()
		time.Sleep(5 * DefaultCheckInterval)
		if got := states(pm.Snapshot()); got != "pg2 up, pg3 up" {
			t.Error(got)
		}
	})
}

func TestNodeThatComesBackIsTheSameWhileItDrains(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireReplica)
		left := nodeOf(t, lent)
		was := nodesOf(pm)
		setNodes(t, pm, c, slices.DeleteFunc([]string{"pg1", "pg2", "pg3"}, func(name string) bool { return name == left })...)
		setNodes(t, pm, c, "pg1", "pg2", "pg3")
		if !slices.Equal(nodesOf(pm), was) {
			t.Error("the nodes are others")
		}
		ready(t, pm)
		if got := states(pm.Snapshot()); got != "pg1 up, pg2 up, pg3 up" {
			t.Error(got)
		}
		lent.Release()
		time.Sleep(5 * DefaultCheckInterval)
		if len(nodesOf(pm)) != 3 {
			t.Error("it has left")
		}
	})
}

func TestSetNodesRefusesWhatMakesNoSense(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		before := pm.Snapshot()
		twice := nodeConfigs(t, c, "pg1", "pg1")
		for _, nodes := range [][]NodeConfig{nil, {}, twice, {{Name: "x"}}} {
			var config *ConfigError
			if err := pm.SetNodes(t.Context(), nodes); !errors.As(err, &config) {
				t.Errorf("%d nodes: %v", len(nodes), err)
			}
		}
		if pm.Snapshot() != before {
			t.Error("the nodes are others")
		}
		if err := pm.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := pm.SetNodes(t.Context(), nodeConfigs(t, c, "pg1", "pg2")); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestBannedNodeGetsNothingUntilTheBanEnds(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		name := nameOf(pm, "pg2")
		if err := pm.Ban(name, BanOptions{Reason: "disk", Duration: time.Minute}); err != nil {
			t.Fatal(err)
		}
		n, _ := pm.Snapshot().Node(name)
		if n.Status != StatusBanned || !strings.Contains(n.String(), "banned until ") || !strings.Contains(n.String(), ": disk") {
			t.Errorf("%v", n)
		}
		for range 20 {
			conn := acquire(t, pm.AcquireReplica)
			if got := nodeOf(t, conn); got != "pg3" {
				t.Errorf("a read went to %s", got)
			}
			conn.Release()
		}
		if err := pm.Ban(nameOf(pm, "pg3"), BanOptions{}); err == nil || !strings.Contains(err.Error(), "no other replica is up") {
			t.Errorf("the last replica: %v", err)
		}
		if err := pm.Ban(nameOf(pm, "pg3"), BanOptions{Force: true}); err != nil {
			t.Errorf("the last replica, by force: %v", err)
		}
		if err := pm.Unban(nameOf(pm, "pg3")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute + 2*DefaultCheckInterval)
		if got := states(pm.Snapshot()); got != "pg1 up, pg2 up, pg3 up" {
			t.Error(got)
		}
		if err := pm.Ban("pg9", BanOptions{}); err == nil || err.Error() != `hasql: there is no node "pg9"` {
			t.Error(err)
		}
		if err := pm.Ban(name, BanOptions{Duration: -1}); err == nil {
			t.Error("a negative duration was taken")
		}
	})
}

func TestBannedMasterIsStillFenced(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireMaster)
		defer lent.Release()
		if err := pm.Ban(nameOf(pm, "pg1"), BanOptions{}); err == nil || !strings.Contains(err.Error(), "no other master is up") {
			t.Errorf("the only master: %v", err)
		}
		if err := pm.Ban(nameOf(pm, "pg1"), BanOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		c.Node("pg2").Promote()
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		if got := nodeOf(t, conn); got != "pg2" {
			t.Errorf("a write went to %s", got)
		}
		time.Sleep(DefaultCheckInterval)
		if got := states(pm.Snapshot()); got != "pg1 stale, pg2 up, pg3 up" {
			t.Error(got)
		}
	})
}

func TestDrainWaitsForConnectionsInUse(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireReplica)
		name := nameOf(pm, nodeOf(t, lent))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := pm.Drain(short, name, BanOptions{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connections to "+name) {
			t.Errorf("with a connection in use: %v", err)
		}
		at(time.Minute, lent.Release)
		began := time.Now()
		if err := pm.Drain(t.Context(), name, BanOptions{}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < time.Minute || took > time.Minute+2*idlePoll {
			t.Errorf("after %v", took)
		}
	})
}

func TestSwitchoverInAPauseFailsNoTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var writers sync.WaitGroup
		var written [8]atomic.Int64
		total := func() (n int64) {
			for i := range written {
				n += written[i].Load()
			}
			return n
		}
		for i := range written {
			writers.Go(func() {
				for ctx.Err() == nil {
					err := pgx.BeginFunc(t.Context(), pm.Master(), func(tx pgx.Tx) error {
						for range 3 {
							if _, err := tx.Exec(t.Context(), "write x"); err != nil {
								return err
							}
							time.Sleep(3 * time.Millisecond)
						}
						return nil
					})
					if err != nil {
						t.Error(err)
						return
					}
					written[i].Add(1)
				}
			})
		}
		master, next := "pg1", "pg2"
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			if err := pm.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := total()
			c.Node(master).Stop()
			time.Sleep(time.Second)
			if total() != before || !pm.Snapshot().Paused() {
				t.Error("somebody wrote in the pause")
			}
			c.Node(next).Promote()
			c.Node(master).Follow()
			c.Node(master).Start()
			if err := pm.Ready(t.Context(), 1, 1); err != nil {
				t.Fatal(err)
			}
			pm.Resume()
			pm.Resume()
			master, next = next, master
		}
		stop()
		writers.Wait()
		for i := range written {
			if n := written[i].Load(); n < 100 {
				t.Errorf("writer %d wrote %d times", i, n)
			}
		}
	})
}

func TestPauseEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireMaster)
		defer lent.Release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		at(time.Millisecond, func() {
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := pm.AcquireMaster(short); err == nil || !strings.Contains(err.Error(), "; paused: ") {
				t.Errorf("in the pause: %v", err)
			}
		})
		if err := pm.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connections to the master") {
			t.Error(err)
		}
		acquire(t, pm.AcquireMaster).Release()
	})
}

// A master that gives no sign of life for a moment, or is banned, still has those who were at work on it.
func TestPauseWaitsForTheConnectionsOfAMasterThatIsNotUp(t *testing.T) {
	for what, fault := range map[string]func(*testing.T, *pgfake.Cluster, *PoolManager){
		"suspect": func(t *testing.T, c *pgfake.Cluster, pm *PoolManager) {
			c.Node("pg1").Freeze()
			nodesOf(pm)[0].checks.checkNow() // else it may be thawed before it is asked
			at(time.Second, c.Node("pg1").Thaw)
			if err := pm.WaitFor(t.Context(), func(s *Snapshot) bool { return s.MasterCount() == 0 }); err != nil {
				t.Fatal(err)
			}
		},
		"banned": func(t *testing.T, c *pgfake.Cluster, pm *PoolManager) {
			if err := pm.Ban("pg1:5432", BanOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c)
				ready(t, pm)
				lent := acquire(t, pm.AcquireMaster)
				fault(t, c, pm)
				at(2*time.Second, lent.Release)
				var err error
				if took := timed(func() { err = pm.Pause(t.Context()) }); err != nil || took < 2*time.Second-idlePoll {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

func TestPauseThatSomebodyElseEndsIsNone(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireMaster)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		other := make(chan error, 1)
		go func() { other <- pm.Pause(short) }()
		at(2*time.Second, lent.Release)
		err := pm.Pause(t.Context())
		if <-other == nil {
			t.Error("the first pause")
		}
		if err == nil && !pm.Snapshot().Paused() {
			t.Error("the second pause is told to be one, and there is none")
		}
	})
}

// Who asked for the pause may be gone. Of two pauses the longer one counts.
func TestPauseForEndsByItself(t *testing.T) {
	for what, test := range map[string]struct {
		pauses []time.Duration // 0: without an end
		until  time.Duration   // 0: until Resume
	}{
		"one":                   {[]time.Duration{10 * time.Second}, 10 * time.Second},
		"then a longer one":     {[]time.Duration{10 * time.Second, time.Minute}, time.Minute},
		"then a shorter one":    {[]time.Duration{time.Minute, 10 * time.Second}, time.Minute},
		"then one without end":  {[]time.Duration{10 * time.Second, 0}, 0},
		"after one without end": {[]time.Duration{0, 10 * time.Second}, 0},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c, func(config *Config) { config.AcquireTimeout = -1 })
				ready(t, pm)
				for _, d := range test.pauses {
					pause := pm.Pause
					if d > 0 {
						pause = func(ctx context.Context) error { return pm.PauseFor(ctx, d) }
					}
					if err := pause(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if test.until == 0 {
					test.until = time.Minute
					at(test.until, pm.Resume)
				}
				took := timed(func() { acquire(t, pm.AcquireMaster).Release() })
				if took < test.until || took > test.until+2*DefaultCheckInterval {
					t.Errorf("the pause took %v, not %v", took, test.until)
				}
			})
		})
	}
}

func TestPauseThatEndsWhileItWaitsIsNone(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireMaster)
		defer lent.Release()
		if err := pm.PauseFor(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "not paused") {
			t.Error(err)
		}
		if err := pm.PauseFor(t.Context(), 0); err == nil || pm.Snapshot().Paused() {
			t.Errorf("no time at all: %v", err)
		}
	})
}

// A discoverer may miss a node once. What an operator said of the node still holds.
func TestBanStandsWhenTheNodeComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		name := nameOf(pm, "pg2")
		if err := pm.Ban(name, BanOptions{Reason: "disk", Duration: time.Minute}); err != nil {
			t.Fatal(err)
		}
		leaves := func() {
			t.Helper()
			setNodes(t, pm, c, "pg1", "pg3")
			time.Sleep(5 * DefaultCheckInterval)
			if got := states(pm.Snapshot()); got != "pg1 up, pg3 up" {
				t.Fatal(got)
			}
		}
		returns := func(want string) {
			t.Helper()
			setNodes(t, pm, c, "pg1", "pg2", "pg3")
			time.Sleep(5 * DefaultCheckInterval)
			if got := states(pm.Snapshot()); got != want {
				t.Error(got)
			}
		}
		leaves()
		returns("pg1 up, pg2 banned, pg3 up")
		leaves()
		time.Sleep(time.Minute) // the ban ends meanwhile
		returns("pg1 up, pg2 up, pg3 up")
		if err := pm.Ban(name, BanOptions{}); err != nil {
			t.Fatal(err)
		}
		leaves()
		returns("pg1 up, pg2 banned, pg3 up")
		if err := pm.Unban(name); err != nil {
			t.Fatal(err)
		}
		leaves()
		returns("pg1 up, pg2 up, pg3 up")
	})
}

func TestDrainThatSomebodyElseEndsIsNone(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireReplica)
		name := nameOf(pm, nodeOf(t, lent))
		at(time.Second, func() {
			if err := pm.Unban(name); err != nil {
				t.Error(err)
			}
		})
		at(2*time.Second, lent.Release)
		if err := pm.Drain(t.Context(), name, BanOptions{}); err == nil {
			t.Error("a node in service was told to be drained")
		}
	})
}

func TestCloseEndsPauseAndDrain(t *testing.T) {
	for what, act := range map[string]func(context.Context, *PoolManager) error{
		"Pause": func(ctx context.Context, pm *PoolManager) error { return pm.Pause(ctx) },
		"Drain": func(ctx context.Context, pm *PoolManager) error {
			return pm.Drain(ctx, "pg1:5432", BanOptions{Force: true})
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c)
				ready(t, pm)
				lent := acquire(t, pm.AcquireMaster)
				at(time.Second, func() { go pm.Close(context.Background()) })
				at(time.Minute, lent.Release)
				var err error
				if took := timed(func() { err = act(t.Context(), pm) }); !errors.Is(err, ErrClosed) || took > 2*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// held is a change that changes nothing, and keeps all others waiting.
type held chan struct{}

func (h held) apply(*Snapshot) bool { <-h; return false }

// Between the look of SetNodes at the members and its order one of them goes.
func TestNodeThatLeavesWhileItIsListedAgainIsMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lent := acquire(t, pm.AcquireReplica)
		left := nodeOf(t, lent)
		setNodes(t, pm, c, "pg1", map[string]string{"pg2": "pg3", "pg3": "pg2"}[left])
		was := nodesOf(pm)[2]

		observed, listed := make(held), make(held)
		pm.cluster.tell(observed)
		lent.Release()
		time.Sleep(2 * DefaultCheckInterval) // every node is probed, and cannot say so
		go pm.cluster.tell(listed)
		synctest.Wait()
		close(observed)
		synctest.Wait() // its monitor asks for the departure now
		at(time.Second, func() { close(listed) })
		setNodes(t, pm, c, "pg1", "pg2", "pg3")

		ready(t, pm)
		if slices.Contains(nodesOf(pm), was) {
			t.Error("a node that had ended is a member again")
		}
		for range 5 {
			conn := acquire(t, pm.AcquireReplica)
			defer conn.Release()
		}
	})
}
