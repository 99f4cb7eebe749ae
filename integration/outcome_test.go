package integration

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// waysToOrder are ways of a service to write an order, by its name.
var waysToOrder = map[string]func(ctx context.Context, m *manager) error{
	aTransaction: func(ctx context.Context, m *manager) error {
		return pgx.BeginFunc(ctx, m.Master(), func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "/* then commit */ insert into orders values ('"+aTransaction+"')")
			return err
		})
	},
	"a statement of a route": func(ctx context.Context, m *manager) error {
		_, err := m.Master().Exec(ctx, "insert into orders values ('a statement of a route')")
		return err
	},
	"a statement of a route, with arguments": func(ctx context.Context, m *manager) error {
		_, err := m.Master().Exec(ctx, "insert into orders values ($1)", "a statement of a route, with arguments")
		return err
	},
	byCopy: func(ctx context.Context, m *manager) error {
		_, err := m.Master().CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"name"}, pgx.CopyFromRows([][]any{{byCopy}}))
		return err
	},
	onAConnection: func(ctx context.Context, m *manager) error {
		conn, err := m.AcquireMaster(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "/* then commit */ insert into orders values ('"+onAConnection+"')")
			return err
		})
	},
}

const aTransaction = "a transaction of a route"

// What pgx tells of these does not say whether their tag came.
const (
	onAConnection = "a transaction of an acquired connection"
	byCopy        = "a COPY of a route"
)

// order runs every way at once. What came of each may be read once done is closed.
func order(ctx context.Context, try func(ctx context.Context, way func(context.Context, *manager) error) error) (results map[string]error, done chan struct{}) {
	results, done = make(map[string]error), make(chan struct{})
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, way := range waysToOrder {
		all.Go(func() {
			err := try(ctx, way)
			mu.Lock()
			defer mu.Unlock()
			results[name] = err
		})
	}
	go func() {
		defer close(done)
		all.Wait()
	}()
	return results, done
}

// orders counts the rows that an order has left.
func orders(t testing.TB, n server) map[string]int {
	t.Helper()
	conn := connect(t, n)
	rows, err := conn.Query(testContext(t), "select name from orders")
	must(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	count := make(map[string]int)
	for _, name := range names {
		count[name]++
	}
	return count
}

// awaitSessions waits until so many client sessions satisfy a condition on pg_stat_activity.
func awaitSessions(t testing.TB, n *pgcluster.Node, want int, condition string) {
	t.Helper()
	conn := connect(t, n)
	for ctx := testContext(t); ; {
		if got := scan[int](t, conn, "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() and "+condition); got == want {
			return
		}
		must(t, ctx.Err())
	}
}

// A commit that had reached a standby when its master was killed has taken effect. A service that believes
// pgconn.SafeToRetry must not order twice.
func TestCommitInFlightWhenTheMasterIsKilledIsNotRepeated(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	nodes := cluster.Nodes()
	must(t, cluster.SetSynchronous(ctx, nodes[0], 1))
	execute(t, nodes[0], "create table orders (name text)")
	m := open(t, cluster.DSN()+"&pool_max_conns=8")
	must(t, m.Ready(ctx, 1, 2))

	freeze(t, nodes[1])
	freeze(t, nodes[2])
	results, done := order(ctx, func(ctx context.Context, way func(context.Context, *manager) error) (err error) {
		for range 2 {
			if err = way(ctx, m); err == nil || !pgconn.SafeToRetry(err) {
				break
			}
		}
		return err
	})
	awaitSessions(t, nodes[0], len(waysToOrder), "wait_event = 'SyncRep'")
	must(t, nodes[0].Kill())
	must(t, nodes[1].Thaw())
	must(t, nodes[2].Thaw())
	next, _ := failOver(t, nodes[1], nodes[2])
	<-done
	for name, err := range results {
		if err == nil || pgconn.SafeToRetry(err) {
			t.Errorf("%s: safe to retry %v: %v", name, pgconn.SafeToRetry(err), err)
		}
	}
	for name, n := range orders(t, next) {
		if n != 1 { // a standby that was frozen still gets what the master had sent
			t.Errorf("%s: ordered %d times", name, n)
		}
	}
}

// PostgreSQL that logs the duration of statements looks for an order to stop after it has committed and sent the tag.
func TestCommitThatCameBeforeTheShutdownHasSucceeded(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Parameters: map[string]string{
		"log_min_duration_statement": "0",
		// A commit takes 100 ms, during which a session does not stop.
		"fsync": "on", "commit_delay": "100000", "commit_siblings": "0",
	}})
	n := cluster.Nodes()[0]
	execute(t, n, "create table orders (name text)")
	m := open(t, cluster.DSN()+"&pool_max_conns=8")
	for range 50 {
		must(t, m.Ready(ctx, 1, 0))
		execute(t, n, "truncate orders")
		results, done := order(ctx, func(ctx context.Context, way func(context.Context, *manager) error) error { return way(ctx, m) })
		if committing(t, n, done) {
			must(t, n.Stop(ctx, pgcluster.StopFast))
			must(t, n.Start(ctx))
		}
		<-done
		hit := false
		for name, err := range results {
			pgErr, ended := errors.AsType[*pgconn.PgError](err)
			committed := orders(t, n)[name]
			switch {
			case committed > 1, err == nil && committed != 1:
				t.Errorf("%s: ordered %d times: %v", name, committed, err)
			case (name == onAConnection || name == byCopy) && ended && pgErr.Code == "57P01":
				hit = hit || committed == 1
			case name == aTransaction && ended && pgErr.Code == "57P01" && committed == 0: // it was not at its end yet
			case err != nil:
				t.Errorf("%s, ordered %d times: %v", name, committed, err)
			}
		}
		if hit { // pgx's own transaction shows that there was something to see
			return
		}
	}
	t.Error("no commit came before the shutdown")
}

// committing waits until both transactions are at their commits, or reports that it has missed them.
func committing(t testing.TB, n *pgcluster.Node, done chan struct{}) bool {
	t.Helper()
	conn := connect(t, n)
	for scan[int](t, conn, "select count(*) from pg_stat_activity where state = 'active' and query = 'commit'") < 2 {
		select {
		case <-done:
			return false
		default:
		}
	}
	return true
}

// A COPY that ends in its middle is undone, but its source has been read: to run it again would load the rest alone.
func TestCopyThatEndsInItsMiddleIsNotSafeToRetry(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	execute(t, n, "create table orders (name text)")
	m := open(t, cluster.DSN())
	must(t, m.Ready(ctx, 1, 0))
	conn, ended := connect(t, n), false
	_, err := m.Master().CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"name"}, pgx.CopyFromFunc(func() ([]any, error) {
		if !ended { // after the first rows, and before there is an end
			pid := 0
			if err := conn.QueryRow(ctx, "select coalesce(min(pid), 0) from pg_stat_activity where wait_event = 'ClientRead' and query ~* '^copy'").Scan(&pid); err != nil {
				return nil, err
			}
			if ended = pid != 0; ended {
				if err := n.KillBackend(pid); err != nil {
					return nil, err
				}
			}
		}
		return []any{strings.Repeat("x", 1000)}, nil
	}))
	if err == nil || pgconn.SafeToRetry(err) || pgconn.Timeout(err) {
		t.Errorf("safe to retry %v, timeout %v: %v", pgconn.SafeToRetry(err), pgconn.Timeout(err), err)
	}
}

// Somebody ends a statement while the server takes no session of the monitor's: that does not prove a shutdown.
func TestTerminatedStatementOnAFullServerIsNotRepeated(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	execute(t, n, "create table orders (name text)")
	m := open(t, ordinary(t, n, cluster.DSN()))
	execute(t, n, "grant all on orders to app")
	must(t, m.Ready(ctx, 1, 0))
	result := make(chan error, 1)
	go func() {
		_, err := m.Master().Exec(ctx, "insert into orders select 'slow' from pg_sleep(60)")
		result <- err
	}()
	const running = "query like 'insert into orders%' and state = 'active'"
	awaitSessions(t, n, 1, running)
	execute(t, n, "alter role app connection limit 0")
	execute(t, n, "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and "+running)
	if pgErr, ok := errors.AsType[*pgconn.PgError](<-result); !ok || pgErr.Code != "57P01" {
		t.Errorf("the statement ended with %v", pgErr)
	}
	execute(t, n, "alter role app connection limit -1")
	awaitSessions(t, n, 0, running)
	m.awaitStatus(n, hasql.StatusUp)
	awaitSessions(t, n, 0, running)
}
