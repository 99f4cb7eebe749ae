package stdlib

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxstdlib "github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/goleak"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test against three nodes in memory, in virtual time: pg1 is the master.
func bubble(t *testing.T, test func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager), edits ...func(*hasql.Config)) {
	t.Helper()
	testenv.Bubble(t, func(t *testing.T) {
		c := pgfake.New("pg1", "pg2", "pg3")
		t.Cleanup(c.Close)
		config, err := hasql.ParseConfig(c.DSN() + "&pool_max_conns=4")
		must(t, err)
		config.Checker = checker(c)
		for _, n := range config.Nodes {
			n.Pool.ConnConfig.DialFunc, n.Pool.ConnConfig.LookupFunc = c.Dial, c.Lookup
		}
		for _, edit := range edits {
			edit(config)
		}
		pm, err := hasql.NewWithConfig(t.Context(), config)
		must(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			must(t, pm.Close(ctx))
		})
		must(t, pm.Ready(t.Context(), 1, 2))
		test(t, c, pm)
	})
}

// checker asks the node only for its name, which fails if the node is down, and takes the rest from the fake.
func checker(c *pgfake.Cluster) hasql.Checker {
	return hasql.CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (hasql.Report, error) {
		var name string
		if err := conn.QueryRow(ctx, "read").Scan(&name); err != nil {
			return hasql.Report{}, err
		}
		n := c.Node(name).State()
		report := hasql.Report{
			Role: hasql.RoleMaster, InRecovery: n.InRecovery, Timeline: uint32(n.Timeline), LSN: hasql.LSN(n.LSN),
			SystemID: uint64(n.SystemID), StartTime: n.StartTime,
		}
		if n.InRecovery {
			report.Role, report.ReplayDelay = hasql.RoleReplica, time.Since(n.ReplayedAt)
		}
		return report, nil
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openDB makes a *sql.DB that the end of the test closes.
func openDB(t *testing.T, route *hasql.Route) *sql.DB {
	t.Helper()
	db := OpenDB(route)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

// servedBy returns the name of the node that answers.
func servedBy(t *testing.T, db *sql.DB) (name string) {
	t.Helper()
	must(t, db.QueryRowContext(t.Context(), "read").Scan(&name))
	return name
}

// fill has the *sql.DB open every connection that it may have.
func fill(t *testing.T, db *sql.DB) {
	t.Helper()
	for range db.Stats().MaxOpenConnections {
		conn, err := db.Conn(t.Context())
		must(t, err)
		defer conn.Close()
	}
}

func TestDBFollowsTheMaster(t *testing.T) {
	for _, fault := range []func(*pgfake.Node){(*pgfake.Node).Kill, (*pgfake.Node).Freeze, (*pgfake.Node).Stop} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
			db := openDB(t, pm.Master())
			fill(t, db)
			if got := servedBy(t, db); got != "pg1" {
				t.Errorf("served by %s", got)
			}
			fault(c.Node("pg1"))
			time.Sleep(2 * time.Second)
			time.AfterFunc(time.Second, c.Node("pg2").Promote)
			for range 8 {
				if got := servedBy(t, db); got != "pg2" {
					t.Errorf("served by %s", got)
				}
			}
			_, err := db.ExecContext(t.Context(), "write $1", "x")
			must(t, err)
			if n := c.Commits("x"); n != 1 {
				t.Errorf("%d commits", n)
			}
			c.Node("pg1").Thaw()
		})
	}
}

// The connections to a replica outlive its promotion, and still are not lent for reading.
func TestDBOfReplicasLeavesTheOneThatIsPromoted(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		db := openDB(t, pm.Replica())
		fill(t, db)
		c.Node("pg1").Kill()
		c.Node("pg2").Promote()
		time.Sleep(time.Second)
		for range 8 {
			if got := servedBy(t, db); got != "pg3" {
				t.Errorf("a read was served by %s", got)
			}
		}
	})
}

// A statement whose node dies under it is not repeated by database/sql, so it takes effect once at most.
func TestStatementInFlightIsNotRepeated(t *testing.T) {
	for name, exec := range map[string]func(context.Context, *sql.DB) error{
		"statement": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "write $1", "x")
			return err
		},
		"query": func(ctx context.Context, db *sql.DB) error {
			rows, err := db.QueryContext(ctx, "write $1", "x")
			if err != nil {
				return err
			}
			defer rows.Close()
			rows.Next()
			return rows.Err()
		},
		"prepared": func(ctx context.Context, db *sql.DB) error {
			stmt, err := db.PrepareContext(ctx, "write $1")
			if err != nil {
				return err
			}
			defer stmt.Close()
			_, err = stmt.ExecContext(ctx, "x")
			return err
		},
		"transaction": func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, "write $1", "x"); err != nil {
				return err
			}
			return tx.Commit()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
				db := openDB(t, pm.Master())
				fill(t, db)
				c.Synchronous(true) // the commit waits for a replica, which has it, but cannot say so
				c.Node("pg2").Freeze()
				c.Node("pg3").Freeze()
				time.AfterFunc(100*time.Millisecond, func() {
					c.Node("pg1").Kill()
					c.Node("pg2").Thaw()
					c.Node("pg3").Thaw()
					c.Node("pg2").Promote()
				})
				err := exec(t.Context(), db)
				if err == nil || errors.Is(err, driver.ErrBadConn) {
					t.Errorf("told %v", err)
				}
				time.Sleep(time.Second)
				c.Synchronous(false)
				if got := servedBy(t, db); got != "pg2" {
					t.Errorf("served by %s", got)
				}
				if n := c.Commits("x"); n > 1 {
					t.Errorf("%d commits", n)
				}
			})
		})
	}
}

func TestCallWaitsForAMasterAsLongAsItMay(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		db := openDB(t, pm.Master())
		fill(t, db)
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		began := time.Now()
		_, err := db.ExecContext(t.Context(), "write $1", "x")
		if _, ok := errors.AsType[*hasql.NoNodeError](err); !ok || time.Since(began) != hasql.DefaultAcquireTimeout {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if _, err := db.ExecContext(ctx, "write $1", "x"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestLimitsComeFromTheDSN(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		db := openDB(t, pm.Master())
		fill(t, db)
		if s := db.Stats(); s.MaxOpenConnections != 4 || s.Idle != 4 {
			t.Errorf("%d connections at most, %d idle", s.MaxOpenConnections, s.Idle)
		}
		before := c.Node("pg1").Dials()
		time.Sleep(time.Minute)
		servedBy(t, db)
		if n := c.Node("pg1").Dials() - before; n != 0 {
			t.Errorf("%d dials within the lifetime", n)
		}
		time.Sleep(time.Hour)
		servedBy(t, db)
		if n := c.Node("pg1").Dials() - before; n != 1 {
			t.Errorf("%d dials after the lifetime", n)
		}
	})
}

func TestConnIsPgxsOwnAndStays(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		conn, err := openDB(t, pm.Replica()).Conn(t.Context())
		must(t, err)
		defer conn.Close()
		pids := make(map[uint32]bool)
		for range 3 {
			must(t, conn.Raw(func(c any) error {
				pids[c.(*pgxstdlib.Conn).Conn().PgConn().PID()] = true
				return nil
			}))
			must(t, conn.PingContext(t.Context()))
		}
		if len(pids) != 1 {
			t.Errorf("%d sessions", len(pids))
		}
	})
}

func TestErrorOfPrepareConnIsTold(t *testing.T) {
	refused := errors.New("refused")
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		if err := openDB(t, pm.Master()).PingContext(t.Context()); !errors.Is(err, refused) {
			t.Error(err)
		}
	}, func(config *hasql.Config) {
		for _, n := range config.Nodes {
			n.Pool.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return false, refused }
		}
	})
}

// A *sql.DB is closed with the connections that a failing hook has seen, too.
func TestConnectionThatAfterConnectRefusesIsClosed(t *testing.T) {
	refused := errors.New("refused")
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		before := c.Node("pg1").Conns()
		if err := openDB(t, pm.Master()).PingContext(t.Context()); !errors.Is(err, refused) {
			t.Error(err)
		}
		synctest.Wait()
		if n := c.Node("pg1").Conns() - before; n != 0 {
			t.Errorf("%d connections left", n)
		}
	}, func(config *hasql.Config) {
		for _, n := range config.Nodes {
			n.Pool.AfterConnect = func(context.Context, *pgx.Conn) error { return refused }
		}
	})
}

func TestIdleConnectionIsPingedBeforeItIsLentAgain(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster, pm *hasql.PoolManager) {
		db := openDB(t, pm.Master())
		fill(t, db)
		time.Sleep(10 * time.Second)
		c.Node("pg1").TerminateAll()
		for i := range 8 {
			_, err := db.ExecContext(t.Context(), "write $1", fmt.Sprint(i))
			must(t, err)
		}
	}, func(config *hasql.Config) {
		for _, n := range config.Nodes {
			n.Pool.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > 5*time.Second }
		}
	})
}
