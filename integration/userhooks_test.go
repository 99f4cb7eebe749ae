package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
)

// diary notes which of the user's hooks were called, and how often.
type diary struct {
	mu    sync.Mutex
	calls map[string]int
	sql   []string
}

func (d *diary) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls == nil {
		d.calls = make(map[string]int)
	}
	d.calls[what]++
}

func (d *diary) count(what string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[what]
}

// The diary is a tracer of everything that pgx traces.

func (d *diary) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	d.note("query")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sql = append(d.sql, data.SQL)
	return context.WithValue(ctx, d, "query")
}

func (d *diary) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	d.note(fmt.Sprint(ctx.Value(d), " end"))
}

func (d *diary) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	d.note("batch")
	return ctx
}
func (d *diary) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (d *diary) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (d *diary) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	d.note("copy")
	return ctx
}
func (d *diary) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {}
func (d *diary) TracePrepareStart(ctx context.Context, _ *pgx.Conn, _ pgx.TracePrepareStartData) context.Context {
	d.note("prepare")
	return ctx
}
func (d *diary) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}
func (d *diary) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	d.note("connect")
	return ctx
}
func (d *diary) TraceConnectEnd(context.Context, pgx.TraceConnectEndData) { d.note("connect end") }
func (d *diary) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	d.note("acquire")
	return ctx
}
func (d *diary) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {}
func (d *diary) TraceRelease(*pgxpool.Pool, pgxpool.TraceReleaseData)                        { d.note("release") }

func TestHooksAndTracerOfTheUserAreCalled(t *testing.T) {
	ctx := testContext(t)
	d := &diary{}
	m := openReady(t, calmClusterOfOne(t), maxConns(1), func(c *hasql.Config) {
		p := c.Nodes[0].Pool
		p.ConnConfig.Tracer = d
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { d.note("BeforeConnect"); return nil }
		p.AfterConnect = func(context.Context, *pgx.Conn) error { d.note("AfterConnect"); return nil }
		p.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { d.note("PrepareConn"); return true, nil }
		p.AfterRelease = func(*pgx.Conn) bool { d.note("AfterRelease"); return true }
		p.BeforeClose = func(*pgx.Conn) { d.note("BeforeClose") }
		p.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { d.note("ShouldPing"); return true }
		p.ConnConfig.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { d.note("OnNotice") }
		p.ConnConfig.OnPgError = func(*pgconn.PgConn, *pgconn.PgError) bool { d.note("OnPgError"); return true }
		p.ConnConfig.AfterConnect = func(context.Context, *pgconn.PgConn) error { d.note("pgconn.AfterConnect"); return nil }
	})
	route := m.Master()
	const rounds = 5
	for range rounds {
		_, err := route.Exec(ctx, "select 'of the user'")
		must(t, err)
		must(t, route.SendBatch(ctx, func() *pgx.Batch { b := &pgx.Batch{}; b.Queue("select 1"); return b }()).Close())
		_, err = route.CopyFrom(ctx, pgx.Identifier{"pg_temp", "t"}, []string{"a"}, pgx.CopyFromRows(nil))
		if err == nil {
			t.Error("copied into nowhere")
		}
		_, err = route.Exec(ctx, "do $$ begin raise notice 'for the user'; end $$")
		must(t, err)
	}
	must(t, m.Close(ctx))
	for what, want := range map[string]int{
		"query": 2 * rounds, "query end": 2 * rounds, "batch": rounds, "copy": rounds,
		"connect": 1, "connect end": 1, "AfterConnect": 1, "BeforeClose": 1,
		"acquire": 4 * rounds, "release": 4 * rounds, "PrepareConn": 4 * rounds, "AfterRelease": 4 * rounds,
	} {
		if got := d.count(what); got < want || want == 1 && got > 1 {
			t.Errorf("%s: called %d times, not %d", what, got, want)
		}
	}
	for _, what := range []string{"prepare", "ShouldPing", "OnNotice", "OnPgError", "BeforeConnect", "pgconn.AfterConnect"} {
		if d.count(what) == 0 {
			t.Errorf("%s was not called", what)
		}
	}
	if d.count("OnNotice") != rounds {
		t.Errorf("OnNotice was called %d times", d.count("OnNotice"))
	}
	if i := slices.IndexFunc(d.sql, func(sql string) bool { return strings.Contains(sql, "transaction_read_only") }); i >= 0 {
		t.Errorf("the user's tracer was told of a probe: %s", d.sql[i])
	}
}

func TestErrorsOfTheUsersHooksReachTheCaller(t *testing.T) {
	ctx := testContext(t)
	for name, set := range map[string]func(*pgxpool.Config){
		"AfterConnect": func(p *pgxpool.Config) {
			p.AfterConnect = func(context.Context, *pgx.Conn) error { return errTest }
		},
		"PrepareConn": func(p *pgxpool.Config) {
			p.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return false, errTest }
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := openReady(t, calmClusterOfOne(t), maxConns(2), func(c *hasql.Config) { set(c.Nodes[0].Pool) })
			mark := m.mark()
			for range 10 {
				if conn, err := m.AcquireMaster(ctx); !errors.Is(err, errTest) {
					t.Errorf("AcquireMaster: %v, %v", conn, err)
				}
			}
			m.undisturbed(mark)
			m.idle()
		})
	}
}

func TestBeforeConnectChangesThePasswordOfEveryConnection(t *testing.T) {
	// As token services do. It fails now and then, as they do too.
	ctx := testContext(t)
	var mu sync.Mutex
	failing := true
	calls := 0
	m := open(t, calmClusterOfOne(t).DSN(), func(c *hasql.Config) {
		p := c.Nodes[0].Pool
		p.ConnConfig.User = "nobody of that name"
		p.BeforeConnect = func(_ context.Context, config *pgx.ConnConfig) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; failing {
				return errTest
			}
			config.User = "postgres"
			return nil
		}
	})
	must(t, m.WaitNextCheck(ctx))
	err := m.Ready(canceled(), 1, 0)
	if !errors.Is(err, errTest) {
		t.Errorf("Ready while BeforeConnect fails: %v", err)
	}
	mu.Lock()
	failing = false
	mu.Unlock()
	must(t, m.Ready(ctx, 1, 0))
	if user := scan[string](t, m.Master(), "select current_user"); user != "postgres" {
		t.Errorf("connected as %s", user)
	}
	mu.Lock()
	defer mu.Unlock()
	if calls < 2 {
		t.Errorf("BeforeConnect was called %d times", calls)
	}
}

func TestBeforeConnectMaySetATracer(t *testing.T) {
	// The configuration it gets is its own to change.
	ctx := testContext(t)
	d := &diary{}
	m := openReady(t, calmClusterOfOne(t), maxConns(4), func(c *hasql.Config) {
		c.Nodes[0].Pool.BeforeConnect = func(_ context.Context, config *pgx.ConnConfig) error {
			config.Tracer = d
			return nil
		}
	})
	var held []*pgxpool.Conn
	for range 4 {
		conn, err := m.AcquireMaster(ctx)
		if err != nil {
			t.Error(err)
			break
		}
		held = append(held, conn)
		_, err = conn.Exec(ctx, "select 1")
		must(t, err)
	}
	for _, conn := range held {
		conn.Release()
	}
	m.idle()
	if d.count("query") != 4 {
		t.Errorf("%d statements were traced", d.count("query"))
	}
}

func TestConnectionsThatAreTooOldAreReplaced(t *testing.T) {
	ctx := testContext(t)
	m := openReady(t, calmClusterOfOne(t), maxConns(2), func(c *hasql.Config) {
		c.Nodes[0].Pool.MaxConnLifetime = 20 * time.Millisecond
		c.Nodes[0].Pool.MaxConnLifetimeJitter = 0
	})
	for m.Stat().Nodes()[0].Pool.MaxLifetimeDestroyCount() < 5 {
		must(t, m.Master().Ping(ctx))
	}
	m.idle()
	fill(t, m, 2)
}
