package integration

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// never is a timeout longer than any test.
const never = time.Hour

// manager is a PoolManager under test, with the calls of its hooks and its log.
type manager struct {
	*hasql.PoolManager
	t    testing.TB
	logs *observer.ObservedLogs

	mu     sync.Mutex
	events []event
	news   chan struct{} // closed and replaced by each event
}

// event is one call of a hook.
type event struct {
	master   bool // MasterChanged, else NodeChanged
	old, new hasql.NodeState
	gap      time.Duration
}

func (e event) String() string {
	if e.master {
		return fmt.Sprintf("master %q -> %q after %v", e.old.Name, e.new.Name, e.gap)
	}
	return fmt.Sprintf("%s: %s %s -> %s %s (%v)", e.new.Name, e.old.Status, e.old.Role, e.new.Status, e.new.Role, e.new.Cause)
}

// open makes a PoolManager; the end of the test closes it. Unless the test sets timeouts of its own, no probe is ever late,
// because a busy machine must not look like a node in trouble.
func open(t testing.TB, dsn string, edits ...func(*hasql.Config)) *manager {
	t.Helper()
	config, err := hasql.ParseConfig(dsn)
	must(t, err)
	config.CheckInterval = 100 * time.Millisecond
	config.CheckTimeout = never
	config.DownTimeout = never
	core, logs := observer.New(zapcore.DebugLevel)
	config.Logger = zap.New(core)
	for _, node := range config.Nodes {
		node.Pool.ConnConfig.RuntimeParams["application_name"] = t.Name()
	}
	for _, edit := range edits {
		edit(config)
	}
	m := &manager{t: t, logs: logs, news: make(chan struct{})}
	user := config.Hooks
	config.Hooks = hasql.Hooks{
		NodeChanged: func(old, new hasql.NodeState) {
			m.record(event{old: old, new: new})
			if user.NodeChanged != nil {
				user.NodeChanged(old, new)
			}
		},
		MasterChanged: func(old, new hasql.NodeState, gap time.Duration) {
			m.record(event{master: true, old: old, new: new, gap: gap})
			if user.MasterChanged != nil {
				user.MasterChanged(old, new, gap)
			}
		},
	}
	m.PoolManager, err = hasql.NewWithConfig(testContext(t), config)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		if t.Failed() {
			t.Log("hooks:\n" + m.history())
		}
	})
	return m
}

// openReady is open, and waits for a master and all replicas.
func openReady(t testing.TB, c nodes, edits ...func(*hasql.Config)) *manager {
	t.Helper()
	m := open(t, c.DSN(), edits...)
	must(t, m.Ready(testContext(t), 1, len(c.Nodes())-1))
	m.awaitEvent("the hooks", 0, func(e event) bool { return e.master })
	for _, n := range c.Nodes() {
		m.awaitEvent("the hooks", 0, func(e event) bool { return !e.master && e.new.Name == n.Addr() })
	}
	return m
}

func (m *manager) record(e event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e)
	close(m.news)
	m.news = make(chan struct{})
}

func (m *manager) seen() ([]event, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events), m.news
}

func (m *manager) history() string {
	events, _ := m.seen()
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintln(&b, " ", e)
	}
	return b.String()
}

// await returns the first snapshot that satisfies cond.
func (m *manager) await(what string, cond func(*hasql.Snapshot) bool) (found *hasql.Snapshot) {
	m.t.Helper()
	err := m.WaitFor(testContext(m.t), func(s *hasql.Snapshot) bool {
		found = s
		return cond(s)
	})
	if err != nil {
		m.t.Fatalf("still waiting for %s: %v", what, err)
	}
	return found
}

// awaitMaster waits until n is the master.
func (m *manager) awaitMaster(n node) {
	m.t.Helper()
	m.await("master "+n.Addr(), func(s *hasql.Snapshot) bool { return state(s, n).Role == hasql.RoleMaster })
}

func (m *manager) awaitStatus(n node, status hasql.Status) {
	m.t.Helper()
	m.await(n.Addr()+" "+status.String(), func(s *hasql.Snapshot) bool { return state(s, n).Status == status })
}

// awaitEvent returns the first event from the one numbered `from` on that satisfies cond.
func (m *manager) awaitEvent(what string, from int, cond func(event) bool) event {
	m.t.Helper()
	ctx := testContext(m.t)
	for {
		events, news := m.seen()
		if i := slices.IndexFunc(events[from:], cond); i >= 0 {
			return events[from+i]
		}
		select {
		case <-news:
		case <-ctx.Done():
			m.t.Fatalf("still waiting for %s", what)
		}
	}
}

// mark returns how many events there were up to now.
func (m *manager) mark() int {
	events, _ := m.seen()
	return len(events)
}

// undisturbed fails the test if a hook was called since mark was from, apart from those about the nodes given.
func (m *manager) undisturbed(from int, except ...node) {
	m.t.Helper()
	must(m.t, m.WaitNextCheck(testContext(m.t)))
	events, _ := m.seen()
	for _, e := range events[from:] {
		if !slices.ContainsFunc(except, func(n node) bool { return !e.master && e.new.Name == n.Addr() }) {
			m.t.Errorf("hook called: %v", e)
		}
	}
}

// state returns what s says of a node.
func state(s *hasql.Snapshot, n node) hasql.NodeState {
	for node := range s.Nodes() {
		if node.Name == n.Addr() {
			return node
		}
	}
	return hasql.NodeState{}
}

func describe(s *hasql.Snapshot) []string {
	var list []string
	for node := range s.Nodes() {
		list = append(list, node.String())
	}
	return list
}

// idle fails the test if any connection is in use.
func (m *manager) idle() {
	m.t.Helper()
	for node := range m.Snapshot().Nodes() {
		if n := node.InUse(); n != 0 {
			m.t.Errorf("%s: %d connections in use", node.Name, n)
		}
	}
}

// queryer is the common part of a route, a pool, a connection and a transaction.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// scan runs a query of one value.
func scan[T any](t testing.TB, q queryer, sql string, args ...any) (value T) {
	t.Helper()
	if err := q.QueryRow(testContext(t), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// servedBy returns the address of the node that answers.
func servedBy(t testing.TB, q queryer) string {
	t.Helper()
	return scan[string](t, q, "select host(inet_server_addr()) || ':' || inet_server_port()")
}

// nodeOf returns the name of the node that a connection was dialled to.
func nodeOf(c *pgxpool.Conn) string {
	config := c.Conn().Config()
	return net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
}

// connect opens a superuser's connection without the PoolManager. The end of the test closes it.
func connect(t testing.TB, n server) *pgx.Conn {
	t.Helper()
	conn, err := n.Conn(testContext(t))
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

// execute runs statements on a node without the PoolManager.
func execute(t testing.TB, n server, sql string, args ...any) {
	t.Helper()
	if _, err := connect(t, n).Exec(testContext(t), sql, args...); err != nil {
		t.Fatalf("%s: %s: %v", n.Addr(), sql, err)
	}
}

// freeze freezes a node until the test ends or thaws it. Call it after open, whose end comes later then.
func freeze(t testing.TB, n *pgcluster.Node) {
	t.Helper()
	must(t, n.Freeze())
	t.Cleanup(func() {
		if err := n.Thaw(); err != nil {
			t.Error(err)
		}
	})
}

// quickly makes hung nodes suspect soon; only newer masters and refusals make nodes down or stale.
func quickly(c *hasql.Config) { c.CheckTimeout = 300 * time.Millisecond }

// awaitBackends waits until the test has no more than n sessions on a node. A session that runs pg_sleep does not count,
// because it notices only at the end of the statement that its client is gone.
func awaitBackends(t testing.TB, node *pgcluster.Node, n int) {
	t.Helper()
	conn := connect(t, node)
	for scan[int](t, conn, `select count(*) from pg_stat_activity
		where application_name = $1 and wait_event is distinct from 'PgSleep'`, t.Name()) > n {
	}
}

// node is a server, or the proxy in front of it, as the manager knows it.
type node interface{ Addr() string }

// server is a node that a test can connect to without the manager.
type server interface {
	node
	Conn(ctx context.Context) (*pgx.Conn, error)
}

// nodes are a cluster, or a part of one.
type nodes interface {
	DSN() string
	Nodes() []*pgcluster.Node
}

var dialer net.Dialer
