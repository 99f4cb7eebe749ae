package integration

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// exactWays are those that the tests of failovers try: each kind once.
var exactWays = []string{"with BEGIN", "repeatable read", "serializable", "it may only read", "a mark", "a mark, serializable"}

// reissue commits as somebody else until xid has been handed out again.
func reissue(t testing.TB, n server, xid uint64) {
	t.Helper()
	conn := connect(t, n)
	for first := true; ; first = false {
		next, err := strconv.ParseUint(scan[string](t, conn, "select pg_current_xact_id()::text"), 10, 64)
		must(t, err)
		if first && next > xid {
			t.Fatalf("xid %d is gone: the next one is %d", xid, next)
		}
		if next >= xid {
			break
		}
	}
	if status := scan[string](t, conn, "select pg_xact_status($1::text::xid8)", strconv.FormatUint(xid, 10)); status != "committed" {
		t.Fatalf("xid %d is %s", xid, status)
	}
}

// xidOf returns the transaction that has written an order.
func xidOf(t testing.TB, n server, id int) uint64 {
	t.Helper()
	xid, err := strconv.ParseUint(scan[string](t, connect(t, n), "select xmin::text from orders where id = $1", id), 10, 64)
	must(t, err)
	return xid
}

// A commit that the old master has done, and the new one never heard of. Its transaction id is somebody else's by then.
func TestCommitThatAFailoverLosesIsNotTakenForAStrangers(t *testing.T) {
	for _, name := range exactWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 1})
			a, b := cluster.Nodes()[0], cluster.Nodes()[1]
			shop(t, a)
			th := &thief{}
			m := openReady(t, cluster, th.steal)
			must(t, orderInTx(ctx, m, 1, waysToCommit[name].options))
			must(t, b.WaitStreaming(ctx, a))
			_, err := b.Detach(ctx)
			must(t, err)
			th.sent = func() {
				awaitOrder(t, a, 2)
				xid := xidOf(t, a, 2)
				must(t, a.Kill())
				must(t, b.Promote(ctx))
				reissue(t, b, xid)
			}
			th.armed.Store(true)
			if err := orderInTx(ctx, m, 2, waysToCommit[name].options); err != nil {
				t.Errorf("it was not applied, so it may run again: %v", err)
			}
			if got := attemptsOf(t, b, 2); !slices.Equal(got, []int{2}) {
				t.Errorf("committed in attempts %v", got)
			}
		})
	}
}

// A commit that the new master has.
func TestCommitThatAFailoverKeepsIsApplied(t *testing.T) {
	for _, name := range exactWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 1})
			a, b := cluster.Nodes()[0], cluster.Nodes()[1]
			shop(t, a)
			th := &thief{}
			m := openReady(t, cluster, th.steal)
			th.sent = func() {
				awaitOrder(t, b, 2)
				must(t, a.Kill())
				must(t, b.Promote(ctx))
			}
			th.armed.Store(true)
			if err := orderInTx(ctx, m, 2, waysToCommit[name].options); err != nil {
				t.Errorf("it was applied: %v", err)
			}
			if got := attemptsOf(t, b, 2); !slices.Equal(got, []int{1}) {
				t.Errorf("committed in attempts %v", got)
			}
		})
	}
}

// A server that crashes hands out the ids again whose WAL was not on disk. It has the same start time if only a backend crashed.
func TestCommitThatACrashLosesIsNotTakenForAStrangers(t *testing.T) {
	for _, crash := range []string{"kill -9", "of a backend"} {
		for _, name := range []string{"with BEGIN", "a mark"} {
			t.Run(crash+"/"+name, func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				cluster := startCluster(t, pgcluster.Options{Parameters: map[string]string{"wal_writer_delay": "10s", "wal_writer_flush_after": "100MB"}})
				n := cluster.Nodes()[0]
				shop(t, n)
				th := &thief{}
				m := openReady(t, cluster, th.steal)
				must(t, orderInTx(ctx, m, 1, waysToCommit[name].options))
				execute(t, n, "checkpoint")
				xid := uint64(0)
				th.before = func() bool {
					if crash == "of a backend" {
						watch := connect(t, n)
						must(t, n.KillBackend(scan[int](t, connect(t, n), "select pg_backend_pid()")))
						for watch.Ping(ctx) == nil { // until all sessions have ended
						}
						for { // until it has recovered
							conn, err := n.Conn(ctx)
							if err == nil {
								conn.Close(ctx)
								break
							}
						}
					} else {
						must(t, n.Kill())
						must(t, n.Start(ctx))
					}
					reissue(t, n, xid)
					return false
				}
				th.armed.Store(true)
				err := m.InTx(ctx, waysToCommit[name].options, func(ctx context.Context, tx pgx.Tx) error {
					if hasql.Attempt(ctx) == 1 {
						xid, _ = strconv.ParseUint(scan[string](t, tx, "select pg_current_xact_id()::text"), 10, 64)
					}
					_, err := tx.Exec(ctx, "insert into orders values (2, $1)", hasql.Attempt(ctx))
					return err
				})
				if got := attemptsOf(t, n, 2); err != nil || !slices.Equal(got, []int{2}) {
					t.Errorf("committed in attempts %v: %v", got, err)
				}
			})
		}
	}
}

// Two failovers before anybody asks. What is told must be true.
func TestOutcomeAfterTwoFailovers(t *testing.T) {
	for _, name := range []string{"with BEGIN", "serializable", "a mark", "a mark, serializable"} {
		for _, kept := range []bool{true, false} {
			t.Run(name+"/kept "+strconv.FormatBool(kept), func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				cluster := startCluster(t, pgcluster.Options{Replicas: 1})
				a, b := cluster.Nodes()[0], cluster.Nodes()[1]
				shop(t, a)
				th := &thief{}
				m := openReady(t, cluster, th.steal)
				th.sent = func() {
					awaitOrder(t, a, 2)
					xid := xidOf(t, a, 2)
					if kept {
						awaitOrder(t, b, 2)
					}
					must(t, a.Kill())
					must(t, b.Promote(ctx))
					if !kept {
						reissue(t, b, xid)
					}
					must(t, a.Rejoin(ctx, b))
					must(t, b.Kill())
					must(t, a.Promote(ctx))
				}
				if !kept {
					must(t, b.WaitStreaming(ctx, a))
					_, err := b.Detach(ctx)
					must(t, err)
				}
				th.armed.Store(true)
				err := orderInTx(ctx, m, 2, waysToCommit[name].options)
				got := attemptsOf(t, a, 2)
				unknown := pgerrIs[*hasql.CommitUnknownError](err)
				switch {
				case unknown && strings.HasPrefix(name, "a mark"):
					t.Errorf("a mark tells it always: %v", err)
				case unknown:
					t.Logf("unknown: %v", err)
				case err != nil || kept && !slices.Equal(got, []int{1}) || !kept && !slices.Equal(got, []int{2}):
					t.Errorf("committed in attempts %v: %v", got, err)
				}
			})
		}
	}
}

// COMMIT stands in the socket of a server that hangs. When that goes on, it commits for nobody.
func TestCommitInTheSocketOfAFrozenMasterIsNotApplied(t *testing.T) {
	for _, name := range exactWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 1})
			a, b := cluster.Nodes()[0], cluster.Nodes()[1]
			shop(t, a)
			th := &thief{}
			m := openReady(t, cluster, th.steal, quickly)
			must(t, orderInTx(ctx, m, 1, waysToCommit[name].options))
			frozen := make(chan struct{})
			th.before = func() bool {
				_, err := b.Detach(ctx)
				must(t, err)
				freeze(t, a)
				close(frozen)
				return true
			}
			th.armed.Store(true)
			result := make(chan error, 1)
			go func() { result <- orderInTx(ctx, m, 2, waysToCommit[name].options) }()
			<-frozen
			must(t, b.Promote(ctx))
			m.awaitMaster(b)
			err := <-result
			late := waysToCommit[name].options.Marker == "" && name != "with BEGIN"
			switch got := attemptsOf(t, b, 2); {
			case late && pgerrIs[*hasql.CommitUnknownError](err) && len(got) == 0:
			case err != nil || !slices.Equal(got, []int{2}):
				t.Errorf("committed in attempts %v: %v", got, err)
			}
			must(t, a.Thaw())
		})
	}
}

// The caller gives up while his commit waits for its standby: pgx cancels the wait, and PostgreSQL commits all the same.
func TestContextThatEndsDuringACommit(t *testing.T) {
	for _, name := range []string{"with BEGIN", "serializable", "a mark"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{Replicas: 1})
			a, b := cluster.Nodes()[0], cluster.Nodes()[1]
			must(t, cluster.SetSynchronous(ctx, a, 1))
			shop(t, a)
			m := openReady(t, cluster)
			must(t, orderInTx(ctx, m, 1, waysToCommit[name].options))
			freeze(t, b)
			impatient, giveUp := context.WithCancel(ctx)
			result := make(chan error, 1)
			go func() { result <- orderInTx(impatient, m, 2, waysToCommit[name].options) }()
			awaitSessions(t, a, 1, "wait_event = 'SyncRep'")
			giveUp()
			err := <-result
			unknown, ok := errors.AsType[*hasql.CommitUnknownError](err)
			if !ok || pgconn.SafeToRetry(err) || hasql.Outcome(err) != hasql.Unknown || !errors.Is(err, context.Canceled) {
				t.Fatalf("not replicated, and nobody to say whether it will be: %v", err)
			}
			must(t, b.Thaw())
			if applied, err := unknown.Resolve(ctx); err != nil || !applied {
				t.Errorf("replicated now: %v %v", applied, err)
			}
			if applied, err := m.ResolveCommit(ctx, unknown.ID); err != nil || !applied {
				t.Errorf("by its ID: %v %v", applied, err)
			}
			if got := attemptsOf(t, b, 2); !slices.Equal(got, []int{1}) {
				t.Errorf("committed in attempts %v", got)
			}
		})
	}
}

// PostgreSQL calls it a success.
func TestCancelledWaitForASynchronousStandbyIsTold(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	must(t, cluster.SetSynchronous(ctx, a, 1))
	shop(t, a)
	m := openReady(t, cluster, func(c *hasql.Config) {
		for _, n := range c.Nodes {
			n.Pool.ConnConfig.RuntimeParams["lc_messages"] = "C"
		}
	})
	freeze(t, b)
	id := 0
	for name, order := range map[string]func(id int) error{
		"InTx":               func(id int) error { return orderInTx(ctx, m, id, hasql.TxOptions{}) },
		"InTx, a mark":       func(id int) error { return orderInTx(ctx, m, id, hasql.TxOptions{Marker: "hasql_commit"}) },
		"InTx, serializable": func(id int) error { return orderInTx(ctx, m, id, waysToCommit["serializable"].options) },
		"BeginFunc": func(id int) error {
			return pgx.BeginFunc(ctx, m.Master(), func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "insert into orders values ($1, 1)", id)
				return err
			})
		},
		"Exec": func(id int) error {
			_, err := m.Master().Exec(ctx, "insert into orders values ($1, 1)", id)
			return err
		},
		"QueryRow": func(id int) error {
			return m.Master().QueryRow(ctx, "insert into orders values ($1, 1) returning id", id).Scan(&id)
		},
		"SendBatch": func(id int) error {
			b := new(pgx.Batch)
			b.Queue("insert into orders values ($1, 1)", id)
			return m.Master().SendBatch(ctx, b).Close()
		},
		"CopyFrom": func(id int) error {
			_, err := m.Master().CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"id", "attempt"}, pgx.CopyFromRows([][]any{{id, 1}}))
			return err
		},
	} {
		id++
		result := make(chan error, 1)
		go func() { result <- order(id) }()
		awaitSessions(t, a, 1, "wait_event = 'SyncRep'")
		execute(t, a, "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
		err := <-result
		if told, ok := errors.AsType[*hasql.NotReplicatedError](err); !ok || told.Node != a.Addr() || hasql.Outcome(err) != hasql.Applied || pgconn.SafeToRetry(err) {
			t.Errorf("%s: %v", name, err)
		}
		if got := attemptsOf(t, a, id); len(got) != 1 {
			t.Errorf("%s: %v", name, got)
		}
	}
	must(t, b.Thaw())
	if _, err := m.Master().Exec(ctx, "insert into orders values (0, 0)"); err != nil { // on a connection that had the warning
		t.Errorf("replicated: %v", err)
	}
}

// Two transactions that may not both have read what the other writes: one of them fails, at its COMMIT perhaps, and runs again.
func TestSerializationFailureIsRepeated(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	shop(t, n)
	m := openReady(t, cluster)
	var read sync.WaitGroup // both have
	read.Add(2)
	results := make(chan error, 2)
	for id := range 2 {
		go func() {
			results <- m.InTx(ctx, waysToCommit["serializable"].options, func(ctx context.Context, tx pgx.Tx) error {
				sum := 0
				if err := tx.QueryRow(ctx, "select count(*) from orders").Scan(&sum); err != nil {
					return err
				}
				if hasql.Attempt(ctx) == 1 {
					read.Done()
					read.Wait()
				}
				_, err := tx.Exec(ctx, "insert into orders values ($1, $2)", id, hasql.Attempt(ctx))
				return err
			})
		}()
	}
	for range 2 {
		must(t, <-results)
	}
	if again := scan[int](t, connect(t, n), "select count(*) from orders where attempt > 1"); again != 1 {
		t.Errorf("%d of 2 ran again", again)
	}
}

func TestCommitThatTheServerRefusesIsNotRepeated(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	shop(t, n)
	execute(t, n, "create table once (id int primary key deferrable initially deferred); insert into once values (1)")
	m := openReady(t, cluster)
	for name, way := range waysToCommit {
		if way.simple {
			continue
		}
		calls := 0
		err := m.InTx(ctx, way.options, func(ctx context.Context, tx pgx.Tx) error {
			calls++
			_, err := tx.Exec(ctx, "insert into once values (1)")
			return err
		})
		if failed(err, "23505") != nil || hasql.Outcome(err) != hasql.Refused || calls != 1 {
			t.Errorf("%s: a deferred constraint, %d calls: %v", name, calls, err)
		}
		calls = 0
		err = m.InTx(ctx, way.options, func(ctx context.Context, tx pgx.Tx) error {
			calls++
			_, _ = tx.Exec(ctx, "insert into orders values ('not a number', 1)")
			return nil
		})
		if !errors.Is(err, pgx.ErrTxCommitRollback) || hasql.Outcome(err) != hasql.Refused || calls != 1 {
			t.Errorf("%s: COMMIT answered by ROLLBACK, %d calls: %v", name, calls, err)
		}
	}
	for name, way := range waysToCommit {
		if way.options.Marker == "" {
			continue
		}
		way.options.Marker = "no_such_table"
		if err := orderInTx(ctx, m, 3, way.options); failed(err, "42P01") != nil || hasql.Outcome(err) != hasql.Refused {
			t.Errorf("%s: no table for marks: %v", name, err)
		}
	}
	if got := attemptsOf(t, n, 3); len(got) != 0 {
		t.Errorf("committed in attempts %v", got)
	}
	m.idle()
}

// Savepoints, panics and what a function may not do.
func TestFunctionOfInTx(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	shop(t, n)
	m := openReady(t, cluster)
	insert := func(tx pgx.Tx, id int) error {
		_, err := tx.Exec(ctx, "insert into orders values ($1, 1)", id)
		return err
	}
	must(t, m.InTx(ctx, hasql.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		must(t, insert(tx, 1))
		savepoint, err := tx.Begin(ctx)
		must(t, err)
		must(t, insert(savepoint, 2))
		must(t, savepoint.Rollback(ctx))
		savepoint, err = tx.Begin(ctx)
		must(t, err)
		must(t, insert(savepoint, 3))
		return savepoint.Commit(ctx)
	}))
	func() {
		defer func() {
			if recover() != "help" {
				t.Error("the panic did not go on")
			}
		}()
		_ = m.InTx(ctx, hasql.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			must(t, insert(tx, 4))
			panic("help")
		})
	}()
	var kept pgx.Tx
	errSoldOut := errors.New("sold out")
	err := m.InTx(ctx, hasql.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		kept = tx
		must(t, insert(tx, 5))
		if tx.Commit(ctx) == nil {
			t.Error("it may not commit by itself")
		}
		return errSoldOut
	})
	if !errors.Is(err, errSoldOut) || hasql.Outcome(err) != hasql.Refused {
		t.Errorf("the function's own error: %v", err)
	}
	if _, err := kept.Exec(ctx, "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("a transaction that was kept: %v", err)
	}
	err = m.InTx(ctx, hasql.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) })
	if !errors.Is(err, pgx.ErrTxClosed) || hasql.Outcome(err) != hasql.Refused {
		t.Errorf("rolled back by the function: %v", err)
	}
	ended, end := context.WithCancel(ctx)
	err = m.InTx(ended, hasql.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		must(t, insert(tx, 6))
		end()
		return nil
	})
	if !errors.Is(err, context.Canceled) || hasql.Outcome(err) != hasql.NotApplied {
		t.Errorf("the context ended before COMMIT: %v", err)
	}
	if ids := scan[[]int](t, connect(t, n), "select array_agg(id order by id) from orders"); !slices.Equal(ids, []int{1, 3}) {
		t.Errorf("orders %v", ids)
	}
	m.idle()
}

// Nothing else can tell, so the service is asked: but only once the transaction can't be applied any more.
func TestVerifyIsAskedWhatNothingElseTells(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	shop(t, a)
	th := &thief{}
	m := openReady(t, cluster, th.steal)
	th.sent = func() {
		awaitOrder(t, b, 2)
		must(t, a.Kill())
		must(t, b.Promote(ctx))
		must(t, b.Stop(ctx, pgcluster.StopFast)) // so that nobody sees where the promotion was
		must(t, b.Start(ctx))
		m.ForgetCluster()
	}
	th.armed.Store(true)
	asked := 0
	err := orderInTx(ctx, m, 2, hasql.TxOptions{Verify: func(ctx context.Context, conn *pgxpool.Conn) (applied bool, err error) {
		asked++
		err = conn.QueryRow(ctx, "select exists (select from orders where id = 2)").Scan(&applied)
		return applied, err
	}})
	if got := attemptsOf(t, b, 2); err != nil || asked != 1 || !slices.Equal(got, []int{1}) {
		t.Errorf("asked %d times, committed in attempts %v: %v", asked, got, err)
	}
}
