package hasql

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgfake"
)

func TestAcquireRoutesByRole(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		for range 20 {
			w := acquire(t, pm.AcquireMaster)
			if got := nodeOf(t, w); got != "pg1" {
				t.Errorf("a write went to %s", got)
			}
			w.Release()
			r := acquire(t, pm.AcquireReplica)
			if got := nodeOf(t, r); got == "pg1" {
				t.Error("a read went to the master")
			}
			r.Release()
		}
		conn, err := pm.Acquire(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		if nodeOf(t, conn) == "pg1" {
			t.Error("read-only went to the master")
		}
		conn.Release()
	})
}

func TestAcquireWaitsThroughACrash(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		acquire(t, pm.AcquireMaster).Release()
		c.Node("pg1").Kill()
		synctest.Wait()
		if s := status(pm, "pg1"); s != StatusDown {
			t.Errorf("pg1 is %s as soon as its sockets have ended", s)
		}
		began := time.Now()
		at(300*time.Millisecond, c.Node("pg2").Promote)
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		if got := nodeOf(t, conn); got != "pg2" {
			t.Errorf("the write went to %s", got)
		}
		if took := time.Since(began); took < 300*time.Millisecond || took > 312*time.Millisecond {
			t.Errorf("waited %v; RecoveryInterval is 10ms, ±10%%", took)
		}
	})
}

func TestSnapshotTellsSinceWhenThereIsNoMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, n := range c.Nodes() {
			n.Latency(time.Millisecond) // or the first answer may come before anybody looks
		}
		began := time.Now()
		pm := open(t, c)
		if since := pm.Snapshot().NoMasterSince(); !since.Equal(began) {
			t.Errorf("before the first answer it is %v, not %v", since, began)
		}
		ready(t, pm)
		if since := pm.Snapshot().NoMasterSince(); !since.IsZero() {
			t.Errorf("with a master it is %v", since)
		}
		killed := time.Now()
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		if since := pm.Snapshot().NoMasterSince(); !since.Equal(killed) {
			t.Errorf("without a master it is %v, not %v", since, killed)
		}
	})
}

func TestFrozenMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		running := acquire(t, pm.AcquireMaster)
		defer running.Release()
		acquire(t, pm.AcquireMaster).Release() // one idle connection, which will look usable
		ended := make(chan error, 1)
		frozen := time.Now()
		c.Node("pg1").Freeze()
		go func() {
			_, err := running.Exec(t.Context(), "write running")
			ended <- err
		}()

		time.Sleep(DefaultCheckInterval*11/10 + DefaultCheckTimeout)
		if s := status(pm, "pg1"); s != StatusSuspect {
			t.Errorf("pg1 is %s", s)
		}
		select {
		case err := <-ended:
			t.Fatalf("a statement on a suspect was ended: %v", err)
		default:
		}

		at(400*time.Millisecond, c.Node("pg2").Promote)
		conn := acquire(t, pm.AcquireMaster)
		if got := nodeOf(t, conn); got != "pg2" {
			t.Errorf("the write went to %s", got)
		}
		conn.Release()
		if took := time.Since(frozen); took > 2012*time.Millisecond {
			t.Errorf("writing again after %v", took)
		}
		err := <-ended // the new master is proof: no waiting for DownTimeout
		if down, ok := errors.AsType[*NodeDownError](err); !ok || down.Node != "pg1:5432" || down.Status != StatusStale {
			t.Errorf("the statement ended with %v", err)
		}

		c.Node("pg1").Thaw() // it still takes itself for the master
		if err := pm.WaitNextCheck(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := status(pm, "pg1"); s != StatusStale {
			t.Errorf("the thawed master is %s", s)
		}
		c.Node("pg2").Kill()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if conn, err := pm.AcquireMaster(ctx); err == nil {
			conn.Release()
			t.Error("a write was let through to a stale master")
		} else if !strings.Contains(err.Error(), "superseded by timeline 2") {
			t.Errorf("%v does not say that pg1 is superseded", err)
		}
		c.Node("pg2").Start()
		c.Node("pg1").Follow()
		ready(t, pm)
	})
}

func TestSilentNodeIsDownAfterDownTimeoutAndCut(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		c.Node("pg1").Cut()
		began := time.Now()
		_, err := conn.Exec(t.Context(), "write lost")
		down, ok := errors.AsType[*NodeDownError](err)
		if !ok || down.Node != "pg1:5432" || down.Status != StatusDown || !errors.Is(down.Cause, errUnanswered) {
			t.Errorf("the statement ended with %v", err)
		}
		if took := time.Since(began); took < DefaultDownTimeout || took > DefaultDownTimeout+DefaultCheckInterval*11/10+cutGrace {
			t.Errorf("it took %v", took)
		}
		c.Node("pg1").Heal()
		ready(t, pm)
	})
}

func TestThawedBeforeAnyoneElseIsMasterGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		c.Node("pg1").Freeze()
		at(2500*time.Millisecond, c.Node("pg1").Thaw)
		if _, err := conn.Exec(t.Context(), "write patient"); err != nil {
			t.Errorf("a stall shorter than DownTimeout ended a statement: %v", err)
		}
		if !c.Survived("patient") {
			t.Error("acknowledged and lost")
		}
		ready(t, pm)
	})
}

func TestQueuedAcquiresMoveOnFromAHungNode(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		for range 4 { // the pool of pg1 is full
			defer acquire(t, pm.AcquireMaster).Release()
		}
		var queued sync.WaitGroup
		for range 20 {
			queued.Go(func() {
				conn, err := pm.AcquireMaster(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if got := nodeOf(t, conn); got != "pg2" {
					t.Errorf("queued for pg1, served by %s", got)
				}
				conn.Release()
			})
		}
		synctest.Wait()
		c.Node("pg1").Freeze()
		at(5*time.Second, c.Node("pg2").Promote)
		queued.Wait()
	})
}

func TestIdleConnectionsOfAHungNodeAreNotPingedOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.CheckTimeout = 50 * time.Millisecond })
		ready(t, pm)
		var conns []interface{ Release() }
		for range 4 {
			conns = append(conns, acquire(t, pm.AcquireMaster))
		}
		for _, conn := range conns {
			conn.Release()
		}
		time.Sleep(10 * time.Second) // idle: each would be pinged, 500 ms long
		c.Node("pg1").Freeze()
		at(time.Second+100*time.Millisecond, c.Node("pg3").Promote)
		began := time.Now()
		conn := acquire(t, pm.AcquireMaster)
		if got := nodeOf(t, conn); got != "pg3" {
			t.Errorf("served by %s", got)
		}
		conn.Release()
		if took := time.Since(began); took > 1400*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

func TestLostIdleConnectionIsReplacedUnseen(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		acquire(t, pm.AcquireMaster).Release()
		time.Sleep(10 * time.Second)
		c.Node("pg1").TerminateAll() // the monitor's connection too
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		if got := nodeOf(t, conn); got != "pg1" {
			t.Errorf("served by %s", got)
		}
		synctest.Wait()
		if s := status(pm, "pg1"); s != StatusUp {
			t.Errorf("pg1 is %s after the loss of connections alone", s)
		}
	})
}

func TestOneLostConnectionPutsTheOthersInDoubt(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) {
			// A monitor that never learns: what an acquire finds out for itself in the moment before its monitor knows.
			config.CheckInterval, config.RecoveryInterval = time.Hour, time.Hour
			config.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				r, err := StandardChecker{}.Check(ctx, conn)
				r.StartTime = time.Time{}
				return r, err
			})
		})
		ready(t, pm)
		var conns []*pgxpool.Conn
		for range 4 {
			conns = append(conns, acquire(t, pm.AcquireMaster))
		}
		for _, conn := range conns {
			conn.Release()
		}
		for _, pid := range c.Node("pg1").PIDs()[1:] { // all but the monitor's
			c.Node("pg1").Terminate(pid)
		}
		failed := 0
		for range 10 {
			if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
				failed++
			}
		}
		if failed != 1 {
			t.Errorf("%d of four lost connections were lent", failed)
		}
	})
}

func TestFallbackWaitsForEitherRole(t *testing.T) {
	for _, comeback := range []string{"pg1", "pg2"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) { config.FallbackMaster = true })
			ready(t, pm)
			for _, n := range c.Nodes() {
				n.Kill()
			}
			synctest.Wait()
			at(time.Second, c.Node(comeback).Start)
			conn := acquire(t, pm.AcquireReplica)
			defer conn.Release()
			if got := nodeOf(t, conn); got != comeback {
				t.Errorf("served by %s, not %s", got, comeback)
			}
		})
	}
}

func TestRoleChangeWithoutAnyErrorIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg1").SetDefaultReadOnly(true)
		if err := pm.WaitNextCheck(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := pm.Snapshot(); s.MasterCount() != 0 || s.ReplicaCount() != 3 {
			t.Errorf("%d masters, %d replicas", s.MasterCount(), s.ReplicaCount())
		}
		c.Node("pg1").SetDefaultReadOnly(false)
		ready(t, pm)
	})
}

func TestAnswerOtherThanOnOrOffIsNoRole(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		handleProbe(c, func(*pgfake.Session, []string) (*pgfake.Result, error) {
			return pgfake.Row("", false, nil, nil, nil, nil, nil, nil, nil, nil), nil
		})
		if err := pm.WaitNextCheck(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := pm.Snapshot(); s.MasterCount()+s.ReplicaCount() != 0 {
			t.Errorf("%d masters, %d replicas", s.MasterCount(), s.ReplicaCount())
		}
	})
}

func TestServerThatRefusesTheFullProbeStillHasARole(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Handle(fullProbe, func(*pgfake.Session, []string) (*pgfake.Result, error) {
			return nil, pgfake.Errorf("42501", "permission denied for function pg_control_system")
		})
		pm := open(t, c)
		ready(t, pm)
		for n := range pm.Snapshot().Nodes() {
			if n.Report.Limited == nil || n.Report.Timeline != 0 {
				t.Errorf("%s: %+v", n.Name, n.Report)
			}
		}
		before := c.Node("pg1").QueryCount(fullProbe)
		time.Sleep(time.Hour)
		if again := c.Node("pg1").QueryCount(fullProbe) - before; again < 12 || again > 20 {
			t.Errorf("the full probe was tried %d times again in an hour", again)
		}
	})
}

// Without timelines nothing tells which of two masters is the newer one.
func TestMasterThatRefusesTheMonitorForeverKeepsNoPromotedNodeStale(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Handle(fullProbe, func(*pgfake.Session, []string) (*pgfake.Result, error) {
			return nil, pgfake.Errorf("42501", "permission denied for function pg_control_system")
		})
		pm := open(t, c)
		ready(t, pm)
		old := acquire(t, pm.AcquireMaster)
		defer old.Release()
		c.Node("pg1").RefuseLogin("28P01", "password authentication failed")
		c.Node("pg1").Terminate(monitorPID(c, "pg1"))
		c.Node("pg2").Promote()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		if pg1, pg2 := status(pm, "pg1"), status(pm, "pg2"); pg1 != StatusSuspect || pg2 != StatusStale {
			t.Errorf("before DownTimeout: pg1 is %s, pg2 is %s", pg1, pg2)
		}
		if _, err := old.Exec(t.Context(), "read"); err != nil {
			t.Errorf("a connection was cut while the incumbent was waited for: %v", err)
		}
		time.Sleep(2 * time.Second)
		if pg1, pg2 := status(pm, "pg1"), status(pm, "pg2"); pg1 != StatusStale || pg2 != StatusUp {
			t.Errorf("after DownTimeout: pg1 is %s, pg2 is %s", pg1, pg2)
		}
		if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
			t.Error(err)
		}
		if _, err := old.Exec(t.Context(), "write y"); err == nil {
			t.Error("the old master was still written to")
		}
	})
}

func TestRestartThatNoProbeSawEmptiesThePool(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		acquire(t, pm.AcquireMaster).Release()
		c.Node("pg1").Crash() // and it is back before anybody asks
		c.Node("pg1").SetStartTime(time.Now().Add(time.Hour))
		synctest.Wait()
		if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
			t.Errorf("a connection to the old server was lent: %v", err)
		}
	})
}

func TestAtLeastReadsWhatWasWritten(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg2").PauseReplay()
		c.Node("pg3").SetReplayDelay(50 * time.Millisecond)
		for range 10 {
			if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
				t.Fatal(err)
			}
			lsn := LSN(c.Node("pg1").State().LSN)
			conn, err := pm.Replica(AtLeast(lsn)).Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := nodeOf(t, conn); LSN(c.Node(got).State().LSN) < lsn {
				t.Errorf("%s has not replayed %v", got, lsn)
			}
			conn.Release()
		}
	})
}

func TestTransactionReleasesItsConnection(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		db := pm.Master()
		for range 10 {
			if err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), "write tx")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			tx, err := db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Error(err)
			}
			if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("a second Rollback: %v", err)
			}
		}
		if n := poolsOf(pm)[0].InUse(); n != 0 {
			t.Errorf("%d connections are still lent", n)
		}
	})
}
