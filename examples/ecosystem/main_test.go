package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// cluster is one master and two replicas, for all examples.
var (
	cluster *pgcluster.Cluster
	master  *pgcluster.Node
)

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cluster, err = pgcluster.Start(ctx, pgcluster.Options{Replicas: 2})
	if errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") != "1" {
		fmt.Println("skipped, because PostgreSQL is missing:", err)
		return 0, nil
	}
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	master = cluster.Nodes()[0]
	// Each commit waits for a replica, so that no failover loses what was acknowledged.
	if err := cluster.SetSynchronous(ctx, master, 1); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// open makes the manager of an example. It is closed after everything that the example itself closes. Then the cluster is made as
// it was, with no table.
func open(t *testing.T) *hasql.PoolManager {
	t.Helper()
	pool, err := hasql.New(t.Context(), cluster.DSN())
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		must(t, pool.Close(ctx))
		must(t, restore(ctx))
	})
	return pool
}

// someWrites is how many writes are acknowledged before the crash, and how many after it.
const someWrites = 20

// throughCrash calls write for 1, 2, 3 and so on. In the middle the master is killed and a replica is promoted. The loop does
// nothing about it, and still goes on: only the write in flight may fail. Then table has each number that was
// acknowledged in its column number, and none twice.
func throughCrash(t *testing.T, table string, write func(ctx context.Context, number int64) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	failover := make(chan error, 1)
	var acknowledged []int64
	var failures []error
	crashed, after := false, 0
	for number := int64(1); after < someWrites; number++ {
		must(t, ctx.Err())
		if number == someWrites {
			go func() { failover <- crash(ctx) }()
		}
		if err := write(ctx, number); err != nil {
			failures = append(failures, fmt.Errorf("write %d: %w", number, err))
			continue
		}
		acknowledged = append(acknowledged, number)
		if crashed {
			after++
			continue
		}
		select {
		case err := <-failover:
			must(t, err)
			crashed = true
		default:
		}
	}
	if len(failures) > 1 {
		t.Errorf("more failed than the write in flight: %v", errors.Join(failures...))
	}
	t.Logf("%d writes acknowledged, %d failed: %v", len(acknowledged), len(failures), failures)
	checkNumbers(t, table, acknowledged)
}

// crash kills the master and promotes a replica, as a failover manager does.
func crash(ctx context.Context) error {
	if err := master.Kill(); err != nil {
		return err
	}
	ranked, err := pgcluster.Failover(ctx, replicas()...)
	if err != nil {
		return err
	}
	master = ranked[0]
	return nil
}

// restore makes a killed master a replica, and drops what an example has made.
func restore(ctx context.Context) error {
	for _, n := range replicas() {
		if !n.Running() {
			if err := n.Rejoin(ctx, master); err != nil {
				return err
			}
		}
		if err := n.WaitStreaming(ctx, master); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, master.DSN())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "drop schema public cascade; create schema public")
	return err
}

func replicas() []*pgcluster.Node {
	return slices.DeleteFunc(cluster.Nodes(), func(n *pgcluster.Node) bool { return n == master })
}

// checkNumbers asks the master itself, not through hasql.
func checkNumbers(t *testing.T, table string, acknowledged []int64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), master.DSN())
	must(t, err)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), "select number from "+table)
	must(t, err)
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	must(t, err)
	times := make(map[int64]int)
	for _, number := range numbers {
		times[number]++
		if times[number] == 2 {
			t.Errorf("%s has %d twice", table, number)
		}
	}
	for _, number := range acknowledged {
		if times[number] == 0 {
			t.Errorf("%s has lost %d", table, number)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
