package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// readOnlyBy are the ways to make new sessions read-only while those that are there stay as they are.
var readOnlyBy = map[string]string{
	"role":             "alter role app",
	"database":         "alter database postgres",
	"role in database": "alter role app in database postgres",
}

// readOnlySpells runs a test for each of readOnlyBy: begin and end do that, leave sessions ends those of the service.
func readOnlySpells(t *testing.T, test func(t *testing.T, m *manager, n *pgcluster.Node, begin, end, endSessions func())) {
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	dsn := ordinary(t, n, n.DSN())
	execute(t, n, "create table writes (); grant all on writes to app")
	admin := connect(t, n)
	do := func(sql string) {
		t.Helper()
		_, err := admin.Exec(testContext(t), sql)
		must(t, err)
	}
	do("set default_transaction_read_only = off")
	for name, alter := range readOnlyBy {
		t.Run(name, func(t *testing.T) {
			m := open(t, dsn)
			must(t, m.Ready(testContext(t), 1, 0))
			test(t, m, n,
				func() { do(alter + " set default_transaction_read_only = on") },
				func() { do(alter + " reset default_transaction_read_only") },
				func() { do("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'") })
		})
	}
}

func noMaster(s *hasql.Snapshot) bool { return s.MasterCount() == 0 }

func TestNodeIsTheMasterAgainAfterAReadOnlySpell(t *testing.T) {
	readOnlySpells(t, func(t *testing.T, m *manager, n *pgcluster.Node, begin, end, endSessions func()) {
		begin()
		endSessions()
		m.await("no master", noMaster)
		for range 3 { // sessions that begin in the spell and stay so
			conn, err := m.AcquireReplica(testContext(t))
			must(t, err)
			defer conn.Release()
		}
		must(t, m.Replica().Ping(testContext(t))) // and one that is idle
		end()
		for range 10 {
			if _, err := m.Master().Exec(testContext(t), "insert into writes default values"); err != nil {
				t.Errorf("a write after the spell: %v", err)
			}
		}
	})
}

func TestMasterWhoseNewSessionsAreReadOnlyGetsNoWrites(t *testing.T) {
	readOnlySpells(t, func(t *testing.T, m *manager, n *pgcluster.Node, begin, end, endSessions func()) {
		begin()
		ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
		defer cancel()
		// The first session of the pool begins read-only, which may be news before it is lent.
		if _, err := m.Master().Exec(ctx, "insert into writes default values"); err == nil {
			t.Error("a session that began in the spell took a write")
		} else if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code != "25006" {
			t.Errorf("a write in the spell: %v", err)
		}
		m.await("no master", noMaster)
		end()
		if _, err := m.Master().Exec(testContext(t), "insert into writes default values"); err != nil {
			t.Errorf("a write after the spell: %v", err)
		}
	})
}
