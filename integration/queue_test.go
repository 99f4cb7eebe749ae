package integration

import (
	"sync"
	"testing"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func TestReadsThatALockOnOneReplicaHoldsUpAreServedByTheOther(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	master, hung, other := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	execute(t, master, "create table locked (id int)")
	m := openReady(t, cluster, maxConns(2), budget(never), func(c *hasql.Config) {
		c.Picker = hasql.PickerFunc(func([]hasql.Candidate) int { return 0 }) // always the hung one, while it is offered
	})
	for _, replica := range []*pgcluster.Node{hung, other} {
		for conn := connect(t, replica); !scan[bool](t, conn, "select to_regclass('locked') is not null"); {
		}
	}
	pauseReplay(t, other) // so that the lock gets to one replica alone
	lock, err := connect(t, master).Begin(ctx)
	must(t, err)
	_, err = lock.Exec(ctx, "lock table locked in access exclusive mode")
	must(t, err)
	execute(t, master, "create table flush ()")
	for conn := connect(t, hung); !scan[bool](t, conn, "select exists (select from pg_locks where mode = 'AccessExclusiveLock' and granted)"); {
	}
	var held sync.WaitGroup
	for range 2 {
		held.Go(func() {
			if _, err := m.Replica().Exec(ctx, "select from locked"); err != nil {
				t.Error(err)
			}
		})
	}
	for conn := connect(t, hung); scan[int](t, conn, "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = $1", t.Name()) < 2; {
	}
	for range 20 {
		conn, err := m.AcquireReplica(ctx)
		must(t, err)
		if got := nodeOf(conn); got != other.Addr() {
			t.Errorf("a read went to %s", got)
		}
		_, err = conn.Exec(ctx, "select from locked")
		must(t, err)
		conn.Release()
	}
	must(t, lock.Rollback(ctx))
	held.Wait()
	awaitRead(t, m, m.Replica(), hung)
	m.idle()
}
