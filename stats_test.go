package hasql

import (
	"context"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/pgfake"
)

func TestWaitsAreCountedInTheBucketOfTheirLength(t *testing.T) {
	for wait, bucket := range map[time.Duration]int{
		0: 0, time.Millisecond: 0, time.Millisecond + 1: 1, 499 * time.Millisecond: 5, 30 * time.Second: len(waitBounds) - 1, time.Hour: len(waitBounds),
	} {
		if got := bucketOf(wait); got != bucket {
			t.Errorf("%v is in bucket %d, not %d", wait, got, bucket)
		}
	}
}

// Everything else that Stat counts of acquires is counted when they end, which in an outage is too late.
func TestStatShowsAnOutageWhileItLasts(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		if s := pm.Stat(); s.Failovers() != 0 || s.Target(TargetMaster).Waiting != 0 {
			t.Errorf("%d failovers, %+v", s.Failovers(), s.Target(TargetMaster))
		}
		before := pm.Stat().NoMasterTime()
		c.Node("pg1").Kill()
		synctest.Wait()

		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				conn, err := pm.AcquireMaster(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				conn.Release()
			})
		}
		all.Go(func() { // gives up before there is a master
			ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
			defer cancel()
			if _, err := pm.AcquireMaster(ctx); err == nil {
				t.Error("there is no master")
			}
		})
		all.Go(func() {
			var conn *pgx.Conn
			err := pm.Master().ConnectFunc(t.Context(), func(ctx context.Context, config *pgx.ConnConfig) (_ *pgx.Conn, err error) {
				conn, err = pgx.ConnectConfig(ctx, config)
				return conn, err
			})
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close(t.Context())
		})
		missing := time.Duration(0)
		for second := range 5 {
			time.Sleep(time.Second)
			synctest.Wait()
			waiting, s := int64(5), pm.Stat()
			if second > 1 {
				waiting = 4
			}
			if n := s.Target(TargetMaster).Waiting; n != waiting {
				t.Errorf("%d wait after %d s, not %d", n, second+1, waiting)
			}
			if n := s.Target(TargetReplica).Waiting; n != 0 {
				t.Errorf("%d wait for a replica", n)
			}
			if now := s.NoMasterTime() - before; now <= missing {
				t.Errorf("no master for %v after %d s", now, second+1)
			} else {
				missing = now
			}
		}
		c.Node("pg2").Promote()
		all.Wait()
		s := pm.Stat()
		if target := s.Target(TargetMaster); target.Waiting != 0 || target.Failures != 1 || s.Failovers() != 1 {
			t.Errorf("afterwards %+v and %d failovers", target, s.Failovers())
		}
		upTo := maps.Collect(s.Target(TargetMaster).WaitHistogram())
		if w := s.Target(TargetMaster).Waits; w != 4 || upTo[time.Second] != 0 || upTo[5*time.Second] != 1 || upTo[10*time.Second] != 4 || upTo[30*time.Second] != 4 {
			t.Errorf("%d waits: %v", w, upTo)
		}
		missing = s.NoMasterTime() - before
		if missing < 5*time.Second || missing > 6*time.Second {
			t.Errorf("no master was known for %v", missing)
		}
		time.Sleep(time.Minute)
		if now := pm.Stat().NoMasterTime() - before; now != missing {
			t.Errorf("the outage goes on: %v, was %v", now, missing)
		}
	})
}
