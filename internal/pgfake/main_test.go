package pgfake

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/pghasql/hasql/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f with a cluster of three nodes on virtual time.
func bubble(t *testing.T, f func(t *testing.T, c *Cluster)) {
	t.Helper()
	testenv.Bubble(t, func(t *testing.T) {
		c := New("pg1", "pg2", "pg3")
		defer c.Close()
		f(t, c)
	})
}

func config(t *testing.T, c *Cluster, dsn string) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DialFunc, cfg.LookupFunc = c.Dial, c.Lookup
	cfg.ConnectTimeout = 0
	return cfg
}

// connect opens a connection that is closed before the cluster.
func connect(t *testing.T, n *Node) *pgx.Conn {
	t.Helper()
	conn, err := dial(t, n)
	if err != nil {
		t.Fatalf("connect to %s: %v", n.Name(), err)
	}
	return conn
}

func dial(t *testing.T, n *Node) (*pgx.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config(t, n.cluster, n.DSN()))
	if err == nil {
		t.Cleanup(func() { _ = conn.PgConn().Conn().Close() })
	}
	return conn, err
}

func pool(t *testing.T, n *Node, size int32) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(n.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.DialFunc, cfg.ConnConfig.LookupFunc = n.cluster.Dial, n.cluster.Lookup
	cfg.MaxConns = size
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// within bounds one step of a test in virtual time.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ask returns the only value of a query.
func ask[T any](t *testing.T, q querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRow(within(t, time.Minute), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// do executes statements that must succeed.
func do(t *testing.T, e execer, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := e.Exec(within(t, time.Minute), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// background runs f and delivers what it returns.
func background(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return result
}

// exec is a statement for background.
func exec(e execer, sql string) func() error {
	return func() error {
		_, err := e.Exec(context.Background(), sql)
		return err
	}
}

// sqlstate returns the SQLSTATE of an error of the server, or "".
func sqlstate(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

func wantState(t *testing.T, err error, code string) {
	t.Helper()
	if got := sqlstate(err); got != code {
		t.Errorf("SQLSTATE = %q, want %q (error: %v)", got, code, err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}
