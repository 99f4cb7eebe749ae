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

// never is longer than any test: a timeout of it is one that plays no part.
const never = time.Hour

// manager is a PoolManager under test with all that its hooks and its log told.
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

// open makes a PoolManager that the test's end closes. Unless the test decides otherwise, no probe is ever late: a
// machine under load must not look like a node in trouble.
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

// await returns the first snapshot that satisfies cond. It looks after each hook, so cond must be about roles and
// statuses.
func (m *manager) await(what string, cond func(*hasql.Snapshot) bool) *hasql.Snapshot {
	m.t.Helper()
	ctx := testContext(m.t)
	for {
		_, news := m.seen()
		s := m.Snapshot()
		if cond(s) {
			return s
		}
		select {
		case <-news:
		case <-ctx.Done():
			m.t.Fatalf("waited in vain for %s; nodes: %v", what, describe(m.Snapshot()))
		}
	}
}

// awaitProbe is await for conditions on the content of reports: it looks after each round of probes.
func (m *manager) awaitProbe(what string, cond func(*hasql.Snapshot) bool) *hasql.Snapshot {
	m.t.Helper()
	ctx := testContext(m.t)
	for {
		s := m.Snapshot()
		if cond(s) {
			return s
		}
		if err := m.WaitNextCheck(ctx); err != nil {
			m.t.Fatalf("waited in vain for %s: %v", what, err)
		}
	}
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
			m.t.Fatalf("waited in vain for %s", what)
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

// idle fails the test if any connection is lent or asked for.
func (m *manager) idle() {
	m.t.Helper()
	for node := range m.Snapshot().Nodes() {
		if n := node.InUse(); n != 0 {
			m.t.Errorf("%s: %d connections in use", node.Name, n)
		}
	}
}

// queryer is what a route, a pool, a connection and a transaction have in common.
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

// connect opens a superuser's connection beside the PoolManager, closed by the test's end.
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

// execute runs statements on a node beside the PoolManager.
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

// awaitBackends waits until the test has no more than n sessions on a node. A session whose client went away in the
// middle of a statement does not notice before the statement's end, so sleeping ones do not count.
func awaitBackends(t testing.TB, node *pgcluster.Node, n int) {
	t.Helper()
	conn := connect(t, node)
	for scan[int](t, conn, `select count(*) from pg_stat_activity
		where application_name = $1 and wait_event is distinct from 'PgSleep'`, t.Name()) > n {
	}
}

// node is a server or the proxy before it, whichever the manager knows.
type node interface{ Addr() string }

// server is a node that can be reached beside the manager.
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
