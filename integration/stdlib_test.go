package integration

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxstdlib "github.com/jackc/pgx/v5/stdlib"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/stdlib"
)

// openDB makes a *sql.DB that the end of the test closes, before the manager.
func openDB(t testing.TB, route *hasql.Route) *sql.DB {
	t.Helper()
	db := stdlib.OpenDB(route)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

// followers are what works on a route without knowing it.
var followers = map[string]func(t testing.TB, m *manager) func(ctx context.Context, id int64) error{
	"database/sql": func(t testing.TB, m *manager) func(context.Context, int64) error {
		db := openDB(t, m.Master())
		return func(ctx context.Context, id int64) error {
			_, err := db.ExecContext(ctx, insertDeed, id)
			return err
		}
	},
	"database/sql, prepared": func(t testing.TB, m *manager) func(context.Context, int64) error {
		stmt, err := openDB(t, m.Master()).PrepareContext(testContext(t), insertDeed)
		must(t, err)
		t.Cleanup(func() { must(t, stmt.Close()) })
		return func(ctx context.Context, id int64) error {
			_, err := stmt.ExecContext(ctx, id)
			return err
		}
	},
	"database/sql, transaction": func(t testing.TB, m *manager) func(context.Context, int64) error {
		db := openDB(t, m.Master())
		return func(ctx context.Context, id int64) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, insertDeed, id); err != nil {
				return err
			}
			return tx.Commit()
		}
	},
	"pgxpool": func(t testing.TB, m *manager) func(context.Context, int64) error {
		pool := followingPool(t, m.Master())
		return func(ctx context.Context, id int64) error {
			_, err := pool.Exec(ctx, insertDeed, id)
			return err
		}
	},
}

func followingPool(t testing.TB, route *hasql.Route) *pgxpool.Pool {
	t.Helper()
	pool, err := route.Pool(testContext(t))
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// TestFollowersGoOnThroughFailovers ends the master in different ways under load, and promotes a replica.
func TestFollowersGoOnThroughFailovers(t *testing.T) {
	for fault, end := range map[string]func(context.Context, *pgcluster.Node) error{
		"kill -9":    func(_ context.Context, n *pgcluster.Node) error { return n.Kill() },
		"freeze":     func(_ context.Context, n *pgcluster.Node) error { return n.Freeze() },
		"switchover": func(ctx context.Context, n *pgcluster.Node) error { return n.Stop(ctx, pgcluster.StopFast) },
	} {
		t.Run(fault, func(t *testing.T) {
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 2})
			old := cluster.Nodes()[0]
			must(t, cluster.SetSynchronous(ctx, old, 1))
			execute(t, old, createDeeds)
			m := openReady(t, cluster, quickly)
			all := startFollowers(t, m)
			all.progress(20)

			must(t, end(ctx, old))
			next, _ := failOver(t, cluster.Nodes()[1], cluster.Nodes()[2])
			all.progress(20)
			all.end(next)
			if fault == "freeze" {
				must(t, old.Thaw())
			}
		})
	}
}

// A statement whose session ends leaves one row at most, however often that is tried.
func TestStatementIsNeverRepeatedByDatabaseSQL(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	master := cluster.Nodes()[0]
	execute(t, master, createDeeds)
	m := openReady(t, cluster)
	all := startFollowers(t, m)
	admin := connect(t, master)
	for range 50 {
		_, err := admin.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity
			where application_name = $1 and query like 'insert%' order by random() limit 4`, t.Name())
		must(t, err)
		all.progress(1)
	}
	all.end(master)
	execute(t, master, "drop table deeds")
}

// work is what all followers do.
type work map[string]*deeds

func startFollowers(t testing.TB, m *manager) work {
	t.Helper()
	all := make(work)
	for name, follow := range followers {
		all[name] = startDeeds(t, 2, int64(len(all))*1e9, follow(t, m))
	}
	return all
}

func (w work) progress(n int64) {
	for _, d := range w {
		d.progress(n)
	}
}

func (w work) end(master server) {
	for name, d := range w {
		for _, err := range d.end(master) {
			d.t.Errorf("%s: %v", name, err)
		}
	}
}

// A *sql.Conn keeps its session, and gives pgx's own connection.
func TestConnOfDatabaseSQLIsOneSession(t *testing.T) {
	ctx := testContext(t)
	m := openReady(t, calmCluster(t))
	db := openDB(t, m.Master())
	conn, err := db.Conn(ctx)
	must(t, err)
	_, err = conn.ExecContext(ctx, "set application_name = 'mine'; select pg_advisory_lock(1)")
	must(t, err)
	var name string
	must(t, conn.QueryRowContext(ctx, "show application_name").Scan(&name))
	var locks int
	must(t, conn.QueryRowContext(ctx, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()").Scan(&locks))
	if name != "mine" || locks != 1 {
		t.Errorf("%q, %d locks", name, locks)
	}
	must(t, conn.Raw(func(c any) error {
		var rows []string
		r, err := c.(*pgxstdlib.Conn).Conn().Query(ctx, "values ('a'), ('b')")
		if err != nil {
			return err
		}
		if rows, err = pgx.CollectRows(r, pgx.RowTo[string]); len(rows) != 2 {
			t.Error(rows)
		}
		return err
	}))
	must(t, conn.Close())
}
