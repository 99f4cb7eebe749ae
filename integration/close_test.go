package integration

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func TestCloseWaitsForTheWorkUnderWay(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	m := openReady(t, cluster)
	tx, err := m.Master().Begin(ctx)
	must(t, err)
	closed := make(chan error, 1)
	go func() { closed <- m.Close(ctx) }()
	closedForAll(t, m)
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait for a transaction: %v", err)
	default:
	}
	if got := scan[int](t, tx, "select 42"); got != 42 {
		t.Error("the transaction does not work any more")
	}
	must(t, tx.Commit(ctx))
	must(t, <-closed)
	for _, n := range cluster.Nodes() {
		awaitBackends(t, n, 0)
	}
}

// closedForAll waits until m is closed and checks that every call says so.
func closedForAll(t testing.TB, m *manager) {
	t.Helper()
	ctx := testContext(t)
	if err := m.WaitNextCheck(ctx); !errors.Is(err, hasql.ErrClosed) { // at the latest in the round that the call asks for
		for err == nil {
			err = m.WaitNextCheck(ctx)
		}
	}
	route := m.Master()
	_, acquire := m.AcquireReplica(ctx)
	_, exec := route.Exec(ctx, "select 1")
	rows, query := route.Query(ctx, "select 1")
	_, begin := route.Begin(ctx)
	_, copied := route.CopyFrom(ctx, pgx.Identifier{"none"}, nil, pgx.CopyFromRows(nil))
	for name, err := range map[string]error{
		"Acquire": acquire, "Exec": exec, "Query": query, "Begin": begin, "CopyFrom": copied, "rows": rows.Err(),
		"QueryRow":      route.QueryRow(ctx, "select 1").Scan(),
		"SendBatch":     route.SendBatch(ctx, &pgx.Batch{}).Close(),
		"Ping":          m.Replica(hasql.WithFallbackMaster(true)).Ping(ctx),
		"Ready":         m.Ready(ctx, 1, 2),
		"WaitNextCheck": m.WaitNextCheck(ctx),
		"AcquireFunc":   route.AcquireFunc(ctx, func(*pgxpool.Conn) error { return nil }),
	} {
		if !errors.Is(err, hasql.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestCloseCutsWhatOutlastsItsContext(t *testing.T) {
	ctx := testContext(t)
	m := openReady(t, calmCluster(t))
	idle, err := m.AcquireMaster(ctx)
	must(t, err)
	defer idle.Release()
	listener, err := m.AcquireMaster(ctx)
	must(t, err)
	_, err = listener.Exec(ctx, "listen news")
	must(t, err)
	listening := make(chan error, 1)
	go func() {
		_, err := listener.Conn().WaitForNotification(ctx)
		listener.Release()
		listening <- err
	}()
	sleeping := hold(t, m)

	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	err = m.Close(short)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "hasql: closed; ") {
		t.Errorf("Close: %v", err)
	}
	_, use := idle.Exec(ctx, "select 1")
	for name, err := range map[string]error{"LISTEN": <-listening, "a statement": <-sleeping, "an idle connection's next statement": use} {
		if !errors.Is(err, hasql.ErrClosed) {
			t.Errorf("%s after a forced Close: %v", name, err)
		}
	}
	idle.Release()
	must(t, m.Close(ctx)) // ends once everything was released
	closedForAll(t, m)
}

func TestCloseEndsEveryWaiter(t *testing.T) {
	ctx := testContext(t)
	cluster := calmCluster(t)
	m := openReady(t, cluster, maxConns(1))
	release := fill(t, m, 1)
	var all, started sync.WaitGroup
	wait := func(name string, f func() error) {
		started.Add(1)
		all.Go(func() {
			started.Done()
			if err := f(); !errors.Is(err, hasql.ErrClosed) {
				t.Errorf("%s ended with %v", name, err)
			}
		})
	}
	for range 50 {
		wait("an acquire from a full pool", func() error { return m.Master().Ping(ctx) })
		wait("an acquire of a fresh enough replica", func() error { return m.Replica(hasql.AtLeast(1 << 62)).Ping(ctx) })
	}
	replica := open(t, cluster.Nodes()[1].DSN())
	wait("Ready", func() error { return replica.Ready(ctx, 1, 0) })
	wait("an acquire without a master", func() error { return replica.Master().Ping(ctx) })
	started.Wait()
	must(t, replica.Close(ctx))
	closed := make(chan error, 1)
	go func() { closed <- m.Close(ctx) }()
	all.Wait()
	release()
	must(t, <-closed)
}

func TestCloseMayBeCalledAgainAndAtTheSameTime(t *testing.T) {
	ctx := testContext(t)
	m := openReady(t, calmCluster(t))
	must(t, m.Master().Ping(ctx))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := m.Close(ctx); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	all.Wait()
	for range 50 { // what is closed is closed, whatever the context
		if err := m.Close(canceled()); err != nil {
			t.Fatalf("Close of what is closed: %v", err)
		}
	}
}

func TestCloseDuringAFailover(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	for _, freezeInstead := range []bool{false, true} {
		m := open(t, cluster.DSN(), quickly)
		must(t, m.Ready(ctx, 1, 0))
		w := startWriters(t, m, 8)
		w.progress(3)
		if freezeInstead {
			freeze(t, cluster.Nodes()[0])
		} else {
			must(t, cluster.Nodes()[0].Kill())
		}
		m.await("the loss of the master", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
		w.stop()
		w.all.Wait()
		must(t, closeSoon(m)) // nothing is in use any more
		if !freezeInstead {
			must(t, cluster.Nodes()[0].Start(ctx))
		}
	}
}

// closeSoon closes with less patience than pgx has for a server that hangs: it parts from a connection within 15 s.
func closeSoon(m *manager) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return m.Close(ctx)
}

func TestCloseRightAfterNew(t *testing.T) {
	cluster := calmCluster(t)
	for range 20 {
		m, err := hasql.New(canceled(), cluster.DSN())
		must(t, err)
		must(t, m.Close(testContext(t)))
	}
}
