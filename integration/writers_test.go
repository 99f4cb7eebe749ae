package integration

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/workload"
)

// writers insert numbers through the master until the test ends them, and record which were acknowledged.
type writers struct {
	t    testing.TB
	m    *manager
	stop context.CancelFunc
	all  sync.WaitGroup
	next atomic.Int64
	do   func(ctx context.Context, conn *pgxpool.Conn, id int64) error // writes a number
	tick chan struct{}                                                 // capacity 1: some writer has finished an operation
	acks []atomic.Int64

	mu       sync.Mutex
	acked    []int64
	failures []failure
	spans    spans
}

// spans are the times of the first and the last operation of each node, by address.
type spans map[string]span

type span struct{ first, last time.Time }

func (s spans) note(node string) {
	now := time.Now()
	known, ok := s[node]
	if !ok {
		known.first = now
	}
	known.last = now
	s[node] = known
}

// gap is the time from the last operation of the old node to the first operation of the next one.
func (s spans) gap(old, next node) time.Duration { return s[next.Addr()].first.Sub(s[old.Addr()].last) }

type failure struct {
	node string // "": no connection was acquired
	err  error
}

const createWrites = "create table if not exists writes (id bigint primary key)"

func startWriters(t testing.TB, m *manager, n int) *writers {
	t.Helper()
	return startWritersOf(t, m, n, func(ctx context.Context, conn *pgxpool.Conn, id int64) error {
		_, err := conn.Exec(ctx, "insert into writes values ($1)", id)
		return err
	})
}

// startWritersOf is startWriters with another way to write a number.
func startWritersOf(t testing.TB, m *manager, n int, do func(context.Context, *pgxpool.Conn, int64) error) *writers {
	t.Helper()
	if _, err := m.Master().Exec(testContext(t), createWrites); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(testContext(t))
	w := &writers{t: t, m: m, stop: stop, do: do, tick: make(chan struct{}, 1), acks: make([]atomic.Int64, n), spans: make(spans)}
	t.Cleanup(func() {
		stop()
		w.all.Wait()
	})
	for i := range n {
		w.all.Go(func() {
			for ctx.Err() == nil {
				if w.write(ctx) {
					w.acks[i].Add(1)
				}
				select {
				case w.tick <- struct{}{}:
				default:
				}
			}
		})
	}
	return w
}

func (w *writers) write(ctx context.Context) bool {
	id := w.next.Add(1)
	conn, err := w.m.AcquireMaster(ctx)
	node := ""
	if err == nil {
		node = nodeOf(conn)
		err = w.do(ctx, conn, id)
		conn.Release()
	}
	if ctx.Err() != nil {
		return false // the end of the test is no failure; the row may be there or not
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failures = append(w.failures, failure{node, err})
		return false
	}
	w.acked = append(w.acked, id)
	w.spans.note(node)
	return true
}

// progress waits until every writer has got n more acknowledgements.
func (w *writers) progress(n int64) {
	w.t.Helper()
	ctx := testContext(w.t)
	goals := make([]int64, len(w.acks))
	for i := range w.acks {
		goals[i] = w.acks[i].Load() + n
	}
	for {
		done := true
		for i := range w.acks {
			done = done && w.acks[i].Load() >= goals[i]
		}
		if done {
			return
		}
		select {
		case <-w.tick:
		case <-ctx.Done():
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("writers are stuck; failures: %v; nodes: %v", w.failures, describe(w.m.Snapshot()))
		}
	}
}

// end stops the writers and checks that they failed only in flight on the nodes given, and that every acknowledged row
// is on master.
func (w *writers) end(master server, mayFail ...node) {
	w.t.Helper()
	w.stop()
	w.all.Wait()
	for _, f := range w.failures {
		if !slices.ContainsFunc(mayFail, func(n node) bool { return n.Addr() == f.node }) {
			w.t.Errorf("a write failed on %q: %v", f.node, f.err)
		}
		if strings.Contains(f.err.Error(), "25006") {
			w.t.Errorf("a write reached a read-only server: %v", f.err)
		}
	}
	w.contained(master)
	w.m.idle()
}

// contained checks that every acknowledged row is on n.
func (w *writers) contained(n server) {
	w.t.Helper()
	lost, err := workload.Missing(testContext(w.t), connect(w.t, n), "writes", w.acked)
	must(w.t, err)
	if len(lost) > 0 {
		w.t.Errorf("%d of %d acknowledged writes are not on %s", len(lost), len(w.acked), n.Addr())
	}
	w.t.Logf("%d writes acknowledged, %d failed", len(w.acked), len(w.failures))
}

// awaitRead reads until n serves a read.
func awaitRead(t testing.TB, m *manager, route *hasql.Route, n node) {
	t.Helper()
	ctx := testContext(t)
	for {
		conn, err := route.Acquire(ctx)
		if err != nil {
			t.Fatalf("no read got to %s: %v", n.Addr(), err)
		}
		served := nodeOf(conn)
		if served == n.Addr() {
			served = servedBy(t, conn)
		}
		conn.Release()
		if served == n.Addr() {
			return
		}
	}
}
