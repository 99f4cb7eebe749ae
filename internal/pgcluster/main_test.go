package pgcluster

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// childEnv makes the test binary be the process that crashes in TestCrashLeavesNothing.
const childEnv = "HASQL_PGCLUSTER_CRASH_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		crashChild()
		return
	}
	goleak.VerifyTestMain(m)
}

// testContext ends well before go test gives up, so that a test that hangs says where.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// startCluster starts a cluster that the test's end closes. Without PostgreSQL it skips, or fails where
// HASQL_REQUIRE_POSTGRES=1 says that there must be one.
func startCluster(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Logf == nil {
		opts.Logf = t.Logf
	}
	cluster, err := Start(testContext(t), opts)
	if errors.Is(err, ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") != "1" {
		t.Skipf("skipped, because PostgreSQL is missing: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

func connect(t testing.TB, n *Node) *pgx.Conn {
	t.Helper()
	conn, err := n.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// execute runs statements on the node over a connection of their own.
func execute(t testing.TB, n *Node, sql string) {
	t.Helper()
	if _, err := connect(t, n).Exec(testContext(t), sql); err != nil {
		t.Fatalf("%s: %s: %v", n.Name(), sql, err)
	}
}

// scan runs a query of one value on the node over a connection of its own.
func scan[T any](t testing.TB, n *Node, sql string) (value T) {
	t.Helper()
	if err := connect(t, n).QueryRow(testContext(t), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %s: %v", n.Name(), sql, err)
	}
	return value
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
