package integration

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// A server that logs the duration of statements looks for an order to cancel behind the commit: it sends COMMIT, then an error.
func TestCommitThatWasCancelledTooLateIsApplied(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Parameters: map[string]string{
		"log_min_duration_statement": "0",
		// A commit takes 100 ms, during which a session does not stop.
		"fsync": "on", "commit_delay": "100000", "commit_siblings": "0",
	}})
	n := cluster.Nodes()[0]
	shop(t, n)
	watch := connect(t, n)
	id, done := 0, 0
	cancelled := func(name string, order func(id int) error) {
		t.Helper()
		id++
		result := make(chan error, 1)
		go func() { result <- order(id) }()
		for !scan[bool](t, watch, `select coalesce(bool_or(pg_cancel_backend(pid)), false) from pg_stat_activity
			where state = 'active' and query ~ '^(commit|insert into orders|copy)' and clock_timestamp() - query_start > '20 ms'`) {
			must(t, ctx.Err())
		}
		err := <-result
		got := len(attemptsOf(t, n, id))
		done += got
		if (got == 1) != (hasql.Outcome(err) == hasql.Applied) || got > 1 {
			t.Errorf("%s: done %d times, and told %v: %v", name, got, hasql.Outcome(err), err)
		}
	}
	for _, simple := range []bool{false, true} {
		m := openReady(t, cluster, simpleProtocol(simple))
		for name, way := range waysToCommit {
			if way.simple == simple {
				cancelled("InTx, "+name, func(id int) error { return orderInTx(ctx, m, id, way.options) })
			}
		}
		name := func(what string) string { return fmt.Sprintf("%s, simple protocol %v", what, simple) }
		cancelled(name("BeginFunc"), func(id int) error {
			return pgx.BeginFunc(ctx, m.Master(), func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "insert into orders values ($1, 1)", id)
				return err
			})
		})
		cancelled(name("Exec"), func(id int) error {
			_, err := m.Master().Exec(ctx, "insert into orders values ($1, 1)", id)
			return err
		})
		cancelled(name("Exec without arguments"), func(id int) error {
			_, err := m.Master().Exec(ctx, fmt.Sprintf("insert into orders values (%d, 1)", id))
			return err
		})
		cancelled(name("CopyFrom"), func(id int) error {
			_, err := m.Master().CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"id", "attempt"}, pgx.CopyFromRows([][]any{{id, 1}}))
			return err
		})
		cancelled(name("QueryRow"), func(id int) error {
			return m.Master().QueryRow(ctx, "insert into orders values ($1, 1) returning id", id).Scan(&id)
		})
	}
	if done == 0 {
		t.Error("no commit was cancelled too late")
	}
}

// What a function commits by a statement is out of sight.
func TestFunctionThatEndsItsTransactionByItself(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Parameters: map[string]string{"max_prepared_transactions": "2"}})
	n := cluster.Nodes()[0]
	shop(t, n)
	m := openReady(t, cluster, func(c *hasql.Config) {
		for _, n := range c.Nodes {
			n.Pool.MaxConns = 1
		}
	})
	errSoldOut := errors.New("sold out")
	for name, way := range waysToCommit {
		if way.simple {
			continue
		}
		for _, end := range []string{"commit", "prepare transaction 'x'", "rollback"} {
			for _, returned := range []error{nil, errSoldOut} {
				calls := 0
				err := m.InTx(ctx, way.options, func(ctx context.Context, tx pgx.Tx) error {
					calls++
					if _, err := tx.Exec(ctx, "insert into orders values (1, 1)"); err != nil {
						return err
					}
					if _, err := tx.Exec(ctx, end); err != nil {
						return err
					}
					return returned
				})
				if hasql.Outcome(err) != hasql.Unknown || pgconn.SafeToRetry(err) || calls != 1 || !errors.Is(err, returned) && returned != nil {
					t.Errorf("%s, %s, then %v: %d calls, %v: %v", name, end, returned, calls, hasql.Outcome(err), err)
				}
				if strings.HasPrefix(end, "prepare") {
					execute(t, n, "rollback prepared 'x'")
				}
			}
		}
	}
	m.idle()
}

// untracedToo are the ways to commit, and the one of a service that wants no trace.
func untracedToo() map[string]hasql.TxOptions {
	all := map[string]hasql.TxOptions{"no trace": {NoTrace: true}}
	for name, way := range waysToCommit {
		if !way.simple {
			all[name] = way.options
		}
	}
	return all
}

// What never came to its COMMIT is not unknown, however little was asked for.
func TestCommitThatWasNotSentIsNotApplied(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	shop(t, n)
	m := openReady(t, cluster)
	for name, options := range untracedToo() {
		for what, odd := range map[string]func(ctx context.Context, end context.CancelFunc, tx pgx.Tx) error{
			"its context has ended": func(_ context.Context, end context.CancelFunc, _ pgx.Tx) error {
				end()
				return nil
			},
			"rows are open": func(ctx context.Context, _ context.CancelFunc, tx pgx.Tx) error {
				_, err := tx.Query(ctx, "select generate_series(1, 10)")
				return err
			},
			"its connection was closed": func(ctx context.Context, _ context.CancelFunc, tx pgx.Tx) error {
				return tx.Conn().Close(ctx)
			},
			"it took too long": func(ctx context.Context, _ context.CancelFunc, tx pgx.Tx) error {
				pid := tx.Conn().PgConn().PID()
				if _, err := tx.Exec(ctx, "set local idle_in_transaction_session_timeout = 1"); err != nil {
					return err
				}
				awaitSessions(t, n, 0, fmt.Sprintf("pid = %d", pid))
				return nil
			},
		} {
			calls := 0
			own, end := context.WithCancel(ctx)
			err := m.InTx(own, options, func(ctx context.Context, tx pgx.Tx) error {
				calls++
				if _, err := tx.Exec(ctx, "insert into orders values (1, 1)"); err != nil {
					return err
				}
				return odd(ctx, end, tx)
			})
			end()
			if verdict := hasql.Outcome(err); verdict != hasql.NotApplied || calls != 1 {
				t.Errorf("%s, %s: %d calls, %v: %v", name, what, calls, verdict, err)
			}
		}
	}
	if got := attemptsOf(t, n, 1); len(got) != 0 {
		t.Errorf("committed in attempts %v", got)
	}
	m.idle()
}

// A transaction on a replica can't have done anything: it runs again. One that only says that it reads may have.
func TestLostAnswerOfATransactionThatReads(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	shop(t, cluster.Nodes()[0])
	th := &thief{}
	m := openReady(t, cluster, th.steal)
	for _, test := range []struct {
		name    string
		route   *hasql.Route
		options hasql.TxOptions
		again   bool
	}{
		{"on a replica", m.Replica(), hasql.TxOptions{}, true},
		{"read only", m.Master(), hasql.TxOptions{TxOptions: pgx.TxOptions{AccessMode: pgx.ReadOnly}}, true},
		{"read only in vain", m.Master(), hasql.TxOptions{TxOptions: pgx.TxOptions{AccessMode: pgx.ReadOnly, BeginQuery: "begin"}}, false},
	} {
		th.armed.Store(true)
		calls := 0
		err := test.route.InTx(ctx, test.options, func(ctx context.Context, tx pgx.Tx) error {
			calls++
			_, err := tx.Exec(ctx, "select 1")
			return err
		})
		if test.again && (err != nil || calls != 2) || !test.again && (hasql.Outcome(err) != hasql.Unknown || calls != 1) {
			t.Errorf("%s: %d calls: %v", test.name, calls, err)
		}
	}
	calls := 0
	err := m.Replica().InTx(ctx, hasql.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		calls++
		_, err := tx.Exec(ctx, "insert into orders values (1, 1)")
		return err
	})
	if failed(err, "25006") != nil || calls != 1 {
		t.Errorf("a write on a replica: %d calls: %v", calls, err)
	}
}

// A mark that is kept away would tell that nothing was applied.
func TestMarkThatATriggerKeepsAwayIsRefused(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	shop(t, n)
	execute(t, n, `create function away() returns trigger language plpgsql as 'begin return null; end';
		create trigger away before insert on hasql_commit for each row execute function away()`)
	m := openReady(t, cluster)
	for name, way := range waysToCommit {
		if way.options.Marker == "" || way.simple {
			continue
		}
		err := orderInTx(ctx, m, 1, way.options)
		if hasql.Outcome(err) != hasql.Refused || !strings.Contains(err.Error(), "marks that could be written for this transaction: 0") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := attemptsOf(t, n, 1); len(got) != 0 {
		t.Errorf("committed in attempts %v", got)
	}
	m.idle()
}

// scissors cut the next COMMIT, or its answer, behind so many bytes. The server sees the end of the connection too.
type scissors struct {
	armed    atomic.Bool
	answer   bool // whether it is the answer
	after    int
	answered atomic.Int64 // the length of the last answer to a COMMIT that was not cut
}

func (s *scissors) hold(c *hasql.Config) {
	for _, n := range c.Nodes {
		dial := n.Pool.ConnConfig.DialFunc
		n.Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &paper{Conn: conn, scissors: s}, nil
		}
	}
}

// paper is one connection.
type paper struct {
	net.Conn
	scissors *scissors
	cutting  atomic.Bool
	left     int // of the answer
	counted  int64
}

func (p *paper) Write(b []byte) (int, error) {
	p.counted = 0
	if s := p.scissors; bytes.Contains(b, []byte("commit\x00")) && s.armed.CompareAndSwap(true, false) {
		if !s.answer {
			n, err := p.Conn.Write(b[:min(s.after, len(b))])
			return n, errors.Join(err, p.end())
		}
		p.left = s.after
		p.cutting.Store(true)
	}
	return p.Conn.Write(b)
}

func (p *paper) Read(b []byte) (int, error) {
	if !p.cutting.Load() {
		n, err := p.Conn.Read(b)
		if p.counted += int64(n); bytes.Contains(b[:n], []byte("COMMIT\x00")) {
			p.scissors.answered.Store(p.counted)
		}
		return n, err
	}
	if p.left == 0 {
		return 0, p.end()
	}
	n, err := p.Conn.Read(b[:min(p.left, len(b))])
	p.left -= n
	return n, err
}

func (p *paper) end() error { return cmp.Or(p.Conn.Close(), error(syscall.ECONNRESET)) }

// Wherever the connection is cut, the transaction is done once.
func TestCommitThatIsCutAtAnyByte(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	shop(t, n)
	watch, id := connect(t, n), 0
	for _, name := range []string{"with BEGIN", "with BEGIN, simple protocol", "serializable", "a mark", "a mark, serializable"} {
		way := waysToCommit[name]
		s := &scissors{}
		m := openReady(t, cluster, s.hold, simpleProtocol(way.simple))
		must(t, orderInTx(ctx, m, id, way.options))
		late := way.options.Marker == "" && way.options.IsoLevel != ""
		length := int(s.answered.Load())
		if length < 18 { // CommandComplete and ReadyForQuery
			t.Fatalf("%s: an answer of %d bytes", name, length)
		}
		unknown := 0
		for i := range 60 {
			id++
			s.answer = i%2 == 0
			s.after = i / 2 * max(1, length/30) // the question of the late ways is a bit longer than the answer
			s.armed.Store(true)
			err := orderInTx(ctx, m, id, way.options)
			got := scan[int](t, watch, "select count(*) from orders where id = $1", id)
			switch {
			case late && pgerrIs[*hasql.CommitUnknownError](err) && got <= 1:
				unknown++
			case err != nil || got != 1:
				t.Errorf("%s, cut after %d bytes (of the answer %v): committed %d times: %v", name, s.after, s.answer, got, err)
			}
		}
		t.Logf("%s: an answer of %d bytes, %d unknown", name, length, unknown)
	}
}

// A session that waits for its standby has committed, and nobody knows whether that lasts.
func TestTerminatedWaitForASynchronousStandby(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	must(t, cluster.SetSynchronous(ctx, a, 1))
	shop(t, a)
	m := openReady(t, cluster)
	for id, name := range []string{"with BEGIN", "serializable", "a mark", "a mark, serializable"} {
		must(t, b.Freeze())
		result := make(chan error, 1)
		go func() { result <- orderInTx(ctx, m, id, waysToCommit[name].options) }()
		awaitSessions(t, a, 1, "wait_event = 'SyncRep'")
		pid := scan[int](t, connect(t, a), "select pid from pg_stat_activity where wait_event = 'SyncRep'")
		execute(t, a, "select pg_terminate_backend($1)", pid)
		awaitSessions(t, a, 1, fmt.Sprintf("wait_event = 'SyncRep' and pid <> %d", pid)) // the question waits for it too
		select {
		case err := <-result:
			t.Errorf("%s: not replicated yet: %v", name, err)
		default:
		}
		must(t, b.Thaw())
		if err := <-result; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := attemptsOf(t, b, id); !slices.Equal(got, []int{1}) {
			t.Errorf("%s: committed in attempts %v", name, got)
		}
	}
}

// Behind a pooler a session of the server is somebody else's in the next transaction, and nobody sees a promotion.
func TestLostAnswerBehindPgBouncer(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	shop(t, a)
	bouncers := startBouncers(t, cluster)
	th := &thief{}
	m := open(t, dsnThrough(bouncers...)+unprepared, th.steal)
	must(t, m.Ready(ctx, 1, 1))
	id := 0
	ways := []string{"with BEGIN", "serializable", "a mark", "a mark, serializable", "a mark, serializable in vain"}
	lost := func(name string) (err error, late bool) {
		id++
		th.armed.Store(true)
		err = orderInTx(ctx, m, id, waysToCommit[name].options)
		return err, waysToCommit[name].options.Marker == "" && name != "with BEGIN"
	}
	for _, name := range ways {
		must(t, orderInTx(ctx, m, 0, waysToCommit[name].options))
		th.before, th.sent = nil, func() { awaitOrder(t, a, id) }
		if err, _ := lost(name); err != nil || !slices.Equal(attemptsOf(t, a, id), []int{1}) {
			t.Errorf("%s, done: in attempts %v: %v", name, attemptsOf(t, a, id), err)
		}
		th.before = func() bool { return false }
		err, late := lost(name)
		th.late()
		if got := attemptsOf(t, a, id); !(late && pgerrIs[*hasql.CommitUnknownError](err) && len(got) <= 1) && (err != nil || !slices.Equal(got, []int{2})) {
			t.Errorf("%s, late: in attempts %v: %v", name, got, err)
		}
	}
	must(t, b.WaitStreaming(ctx, a))
	th.before, th.sent = nil, func() {
		awaitOrder(t, b, id)
		must(t, a.Kill())
		must(t, b.Promote(ctx))
	}
	if err, _ := lost("a mark"); err != nil || !slices.Equal(attemptsOf(t, b, id), []int{1}) {
		t.Errorf("a mark, behind a failover: in attempts %v: %v", attemptsOf(t, b, id), err)
	}
}

// Of several masters the one is asked where the transaction ran. The other one has never heard of it.
func TestLostAnswerOfOneOfSeveralMasters(t *testing.T) {
	ctx := testContext(t)
	first, second := startCluster(t, pgcluster.Options{}).Nodes()[0], startCluster(t, pgcluster.Options{}).Nodes()[0]
	shop(t, first)
	shop(t, second)
	th := &thief{}
	m := open(t, dsnOf(first, second), th.steal, func(c *hasql.Config) { c.MultiMaster = true })
	must(t, m.Ready(ctx, 2, 0))
	for id := range 8 {
		options := []hasql.TxOptions{{}, {Marker: "hasql_commit"}}[id%2]
		th.before = nil
		if id%4 > 1 {
			th.before = func() bool { return false }
		}
		th.armed.Store(true)
		err := orderInTx(ctx, m, id, options)
		if got := len(attemptsOf(t, first, id)) + len(attemptsOf(t, second, id)); err != nil || got != 1 {
			t.Errorf("order %d: done %d times: %v", id, got, err)
		}
	}
}

// What was unknown is found out by another process, and not by what the first one has done in the same place since.
func TestCommitThatAnotherProcessResolves(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	shop(t, a)
	th := &thief{}
	m := openReady(t, cluster, th.steal, func(c *hasql.Config) { c.AcquireTimeout = 100 * time.Millisecond })
	ids, paused := make(map[int]hasql.CommitID), make(chan error, 1)
	pause := func() { // nobody is to be asked
		go func() { paused <- m.Pause(ctx) }()
		m.await("the pause", (*hasql.Snapshot).Paused)
	}
	applied := func(m *manager, id int, want bool) {
		t.Helper()
		for range 2 { // to ask changes nothing
			if got, err := m.ResolveCommit(ctx, ids[id]); err != nil || got != want {
				t.Errorf("order %d: applied %v: %v: %s", id, got, err, ids[id])
			}
		}
	}
	for id := range 6 {
		options := waysToCommit[[]string{"a mark", "a mark, serializable", "with BEGIN"}[id%3]].options
		done := id < 3
		th.before, th.sent = nil, func() {
			awaitOrder(t, a, id)
			pause()
		}
		if !done {
			th.before = func() bool { pause(); return false }
		}
		th.armed.Store(true)
		var unknown *hasql.CommitUnknownError
		for !errors.As(orderInTx(ctx, m, id, options), &unknown) { // a dial may take longer than AcquireTimeout
			must(t, ctx.Err())
		}
		ids[id] = unknown.ID
		must(t, <-paused)
		m.Resume()
		for done := 0; done < 3; {
			if orderInTx(ctx, m, 100+id, options) == nil {
				done++
			}
			must(t, ctx.Err())
		}
	}
	another := openReady(t, cluster)
	for id := range ids {
		if id != 3 && id != 4 { // asked for first after the failover
			applied(another, id, id < 3)
		}
	}
	must(t, b.WaitStreaming(ctx, a))
	must(t, a.Kill())
	must(t, b.Promote(ctx))
	another.awaitMaster(b)
	for _, id := range []int{0, 1, 3, 4} {
		applied(another, id, id < 3)
	}
	for id := range ids {
		if got := len(attemptsOf(t, b, id)); got > 1 || (got == 1) != (id < 3) {
			t.Errorf("order %d: done %d times", id, got)
		}
	}
}

// Somebody deallocates what pgx has prepared. That says nothing of what the server can do.
func TestDeallocatedStatementsEndNoTrace(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{})
	n := cluster.Nodes()[0]
	shop(t, n)
	th := &thief{sent: func() { awaitOrder(t, n, 3) }}
	m := openReady(t, cluster, th.steal, func(c *hasql.Config) {
		for _, n := range c.Nodes {
			n.Pool.MaxConns = 1
		}
	})
	must(t, orderInTx(ctx, m, 1, hasql.TxOptions{}))
	_, err := m.Master().Exec(ctx, "deallocate all")
	must(t, err)
	must(t, m.InTx(ctx, hasql.TxOptions{}, func(context.Context, pgx.Tx) error { return nil }))
	_ = orderInTx(ctx, m, 2, hasql.TxOptions{}) // its insert was deallocated too
	th.armed.Store(true)
	if err := orderInTx(ctx, m, 3, hasql.TxOptions{}); err != nil || !slices.Equal(attemptsOf(t, n, 3), []int{1}) {
		t.Errorf("committed in attempts %v: %v", attemptsOf(t, n, 3), err)
	}
	if warnings := m.logs.FilterMessageSnippet("refuses what tells").Len(); warnings != 0 {
		t.Errorf("%d warnings", warnings)
	}
}
