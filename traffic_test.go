package hasql

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/pgfake"
)

// probes counts what a node was asked by its monitor while f ran.
func probes(c *pgfake.Cluster, node string, f func()) int {
	before := asked(c.Node(node))
	f()
	return asked(c.Node(node)) - before
}

func TestPromotionIsSeenInPassing(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.CheckInterval = time.Hour })
		ready(t, pm)
		time.Sleep(time.Second)
		c.Node("pg2").Promote()
		for range 4 * samplePeriod { // about half of these go to pg2, whose answers tell
			conn := acquire(t, pm.AcquireReplica)
			nodeOf(t, conn)
			conn.Release()
		}
		time.Sleep(time.Second)
		if name := pm.Snapshot().master().Name; name != "pg2:5432" {
			t.Errorf("the master is %q", name)
		}
	})
}

func TestRefusedWriteOnTheMasterAsksForAProbe(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.CheckInterval = time.Hour })
		ready(t, pm)
		time.Sleep(time.Second)
		conn := acquire(t, pm.AcquireMaster) // before: a session that begins read-only would be news itself
		defer conn.Release()
		c.Node("pg1").SetDefaultReadOnly(true)
		if _, err := conn.Exec(t.Context(), "write x"); err == nil || !strings.Contains(err.Error(), "25006") {
			t.Fatalf("error %v", err)
		}
		time.Sleep(time.Second)
		if n := pm.Snapshot().MasterCount(); n != 0 {
			t.Errorf("%d masters", n)
		}
	})
}

// A name that led to another server for a moment leaves connections to it in the pool.
func TestConnectionToAStandbyRefusesOneWriteToTheMasterAndNoMore(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var astray atomic.Bool
		pm := open(t, c, func(config *Config) {
			config.Nodes[0].Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if astray.Load() {
					addr = c.Node("pg2").Addr()
				}
				return c.Dial(ctx, network, addr)
			}
		})
		ready(t, pm)
		astray.Store(true)
		acquire(t, pm.AcquireMaster).Release()
		astray.Store(false)
		if _, err := pm.Master().Exec(t.Context(), "write x"); err == nil || !strings.Contains(err.Error(), "25006") {
			t.Errorf("error %v", err)
		}
		for range 10 {
			if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestSilenceUnderTrafficAsksForAProbe(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.CheckInterval = time.Hour })
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		c.Node("pg1").Freeze()
		frozen := time.Now()
		go func() {
			defer conn.Release()
			_, _ = conn.Exec(t.Context(), "write x")
		}()
		at(300*time.Millisecond, c.Node("pg2").Promote)
		time.Sleep(nodepool.MaxSilence * 3 / 2) // until the probe is out: an acquire before would take an idle connection of pg1's
		time.Sleep(DefaultCheckTimeout)
		acquire(t, pm.AcquireMaster).Release()
		if took := time.Since(frozen); took > 700*time.Millisecond {
			t.Errorf("writing again after %v", took)
		}
	})
}

func TestSilenceOfTheMasterAsksTheOthers(t *testing.T) {
	for _, statements := range []int{1, 30} { // one after the other
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) {
				config.CheckInterval, config.CheckTimeout, config.DownTimeout = time.Hour, time.Minute, time.Hour
				config.Nodes[0].Pool.MaxConns = 30
			})
			ready(t, pm)
			var conns []*pgxpool.Conn
			for range statements {
				conns = append(conns, acquire(t, pm.AcquireMaster))
			}
			c.Node("pg1").Freeze()
			frozen := time.Now()
			ended := make(chan error, statements)
			for i, conn := range conns {
				at(time.Duration(i)*20*time.Millisecond, func() {
					_, err := conn.Exec(t.Context(), "write x")
					ended <- err
					conn.Release()
				})
			}
			at(300*time.Millisecond, c.Node("pg2").Promote)
			if err := <-ended; !pgerr.Is[*NodeDownError](err) {
				t.Errorf("a statement ended with %v", err)
			}
			if took := time.Since(frozen); took < 300*time.Millisecond || took > 300*time.Millisecond+nodepool.MaxSilence {
				t.Errorf("of %d statements, the first was cut after %v", statements, took)
			}
			if name := pm.Snapshot().master().Name; name != "pg2:5432" {
				t.Errorf("the master is %q", name)
			}
			for range statements - 1 {
				<-ended
			}
		})
	}
}

func TestHealthyTrafficAsksForNoProbes(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, code := range []string{"XX000", "53300", "40001", "57014"} {
			c.Handle("fail "+code, func(*pgfake.Session, []string) (*pgfake.Result, error) {
				return nil, pgfake.Errorf(code, "an error of the statement's")
			})
		}
		pm := open(t, c, func(config *Config) { config.CheckInterval = time.Hour })
		ready(t, pm)
		time.Sleep(time.Second)
		n := probes(c, "pg1", func() {
			for range 1000 {
				for _, sql := range []string{"syntax error", "fail XX000", "fail 53300", "fail 40001", "fail 57014"} {
					_, _ = pm.Master().Exec(t.Context(), sql)
				}
				if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
		})
		if n != 0 {
			t.Errorf("%d probes for statements that fail or not", n)
		}
		n = probes(c, "pg1", func() {
			if _, err := pm.Master().Exec(t.Context(), "select pg_sleep(60)"); err != nil {
				t.Error(err)
			}
		})
		if n != 1 {
			t.Errorf("%d probes for a query that takes a minute", n)
		}
	})
}

func TestHintsThatMeanNothingAreHeededLessAndLess(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Handle("wrong", func(*pgfake.Session, []string) (*pgfake.Result, error) {
			return nil, pgfake.Errorf("25006", "cannot execute INSERT in a read-only transaction")
		})
		pm := open(t, c)
		ready(t, pm)
		time.Sleep(time.Second)
		n := probes(c, "pg1", func() {
			for range 10_000 { // a service that writes in transactions it has set read-only
				_, _ = pm.Master().Exec(t.Context(), "wrong")
				time.Sleep(10 * time.Millisecond)
			}
		})
		if n > 120 { // 100 s
			t.Errorf("%d probes", n)
		}
	})
}

// As behind an address that leads here and there.
func TestHintsOfANodeThatChangesItsMindAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var answers atomic.Int64
		handleProbe(c, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
			result, err := answerProbe(s, args)
			if answers.Add(1)%2 == 0 {
				result.Rows[0][0] = "on"
			}
			return result, err
		})
		c.Node("pg1").Latency(200 * time.Microsecond)
		pm := open(t, c, func(config *Config) { config.MultiMaster = true })
		time.Sleep(time.Second)
		n := probes(c, "pg1", func() {
			for range 10_000 {
				nodesOf(pm)[0].checks.SuggestCheck()
				time.Sleep(100 * time.Microsecond)
			}
		})
		if n > 110 { // 1 s of RecoveryInterval, and what was due anyway
			t.Errorf("%d probes", n)
		}
	})
}

func TestNodeThatComesBackGrowsIntoItsShare(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.Nodes[1].Pool.MinConns = 3 })
		ready(t, pm)
		time.Sleep(time.Minute)
		c.Node("pg2").Kill()
		time.Sleep(time.Minute)
		c.Node("pg2").Start()
		ready(t, pm)
		synctest.Wait()
		if n := poolsOf(pm)[1].Stat().IdleConns(); n != 3 {
			t.Errorf("%d connections are open where 3 shall be at least", n)
		}
		share := func() float64 {
			before := pm.Stat().Nodes()[1].Acquires(TargetReplica)
			for range 2000 {
				acquire(t, pm.AcquireReplica).Release()
			}
			return float64(pm.Stat().Nodes()[1].Acquires(TargetReplica)-before) / 2000
		}
		var shares []string
		last := -0.05
		for range 4 {
			s := share()
			shares = append(shares, fmt.Sprintf("%.2f", s))
			if s < last {
				t.Error("the share shrinks")
			}
			last = s - 0.05
			time.Sleep(time.Second)
		}
		if shares[0] > "0.05" || shares[3] < "0.45" {
			t.Errorf("shares %v", shares)
		}
	})
}

func TestFirstWriteToAPromotedReplicaWaitsForNoDial(t *testing.T) {
	for _, reading := range []int{0, 1, 3} { // connections to each replica that are lent
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			for range 2 * reading {
				defer acquire(t, pm.AcquireReplica).Release()
			}
			c.Node("pg1").Kill()
			time.Sleep(time.Second)
			dials := c.Node("pg2").Dials()
			c.Node("pg2").Promote()
			acquire(t, pm.AcquireMaster).Release()
			if n := c.Node("pg2").Dials() - dials; n != 0 {
				t.Errorf("%d dials before the first write, beside %d reads", n, reading)
			}
		})
	}
}

func TestStandbyThatTurnsToTheNewMasterIsReadFromSoon(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var received atomic.Int64 // pg3's received_tli, as a role with pg_monitor sees it
		handleProbe(c, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
			result, err := answerProbe(s, args)
			if timeline := received.Load(); timeline != 0 && s.Node().Name() == "pg3" {
				result.Rows[0][2] = timeline
			}
			return result, err
		})
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg1").Kill()
		c.Node("pg2").Promote() // pg3 receives nothing, so it says nothing of its timeline
		acquire(t, pm.AcquireMaster).Release()
		time.Sleep(100 * time.Millisecond)
		received.Store(1) // it begins where it was
		if err := pm.WaitNextCheck(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := status(pm, "pg3"); s != StatusSuspect {
			t.Errorf("a standby of the old master is %s", s)
		}
		at(100*time.Millisecond, func() { received.Store(2) })
		began := time.Now()
		acquire(t, pm.AcquireReplica).Release()
		if took := time.Since(began); took > 112*time.Millisecond {
			t.Errorf("it turned after 100ms and was read from after %v", took)
		}
	})
}
