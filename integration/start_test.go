package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestNodesMayAllBeDownAtTheStart(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	nodes := cluster.Nodes()
	must(t, nodes[1].Stop(ctx, pgcluster.StopFast))
	must(t, nodes[0].Stop(ctx, pgcluster.StopFast))

	m := open(t, cluster.DSN(), func(c *hasql.Config) { c.FallbackMaster = true })
	must(t, m.WaitNextCheck(ctx))
	m.awaitStatus(nodes[0], hasql.StatusDown)
	m.awaitStatus(nodes[1], hasql.StatusDown)
	err := m.Ready(canceled(), 0, 1)
	if _, ok := errors.AsType[*hasql.NoNodeError](err); !ok || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Ready of a cluster that is down: %v", err)
	}
	ready, write, read := make(chan error, 1), make(chan error, 1), make(chan string, 1)
	go func() { ready <- m.Ready(ctx, 1, 1) }()
	go func() { write <- m.Master().Ping(ctx) }()
	go func() { // waits for either role, as it may fall back
		conn, err := m.AcquireReplica(ctx)
		if err != nil {
			read <- err.Error()
			return
		}
		read <- nodeOf(conn)
		conn.Release()
	}()
	must(t, nodes[1].Start(ctx)) // the replica first: it serves reads without a master
	if got := <-read; got != nodes[1].Addr() {
		t.Errorf("the read: %s", got)
	}
	must(t, nodes[0].Start(ctx))
	must(t, <-ready)
	must(t, <-write)
}

func TestSomeNodesMayBeDownAtTheStart(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	nodes := cluster.Nodes()
	must(t, nodes[0].Kill())
	m := open(t, cluster.DSN())
	must(t, m.Ready(ctx, 0, 1))
	if got := servedBy(t, m.Replica()); got != nodes[1].Addr() {
		t.Errorf("a read went to %s", got)
	}
	must(t, nodes[0].Start(ctx))
	must(t, m.Ready(ctx, -1, -1))

	freeze(t, nodes[1])
	late := open(t, cluster.DSN(), quickly)
	must(t, late.Ready(ctx, 1, 0))
	must(t, late.Master().Ping(ctx))
	must(t, nodes[1].Thaw())
	must(t, late.Ready(ctx, 1, 1))
}

const secret = "Pa55-w0rd'\"%&:@/ \\ secret"

// silentAbout fails the test if a text that came out of m holds a password.
func (m *manager) silentAbout(password string, errs ...error) {
	m.t.Helper()
	var texts []string
	for _, err := range errs {
		texts = append(texts, errorTexts(err)...)
	}
	for _, entry := range m.logs.All() {
		line, err := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "message"}).EncodeEntry(entry.Entry, entry.Context)
		must(m.t, err)
		texts = append(texts, line.String(), fmt.Sprintf("%+v", entry.ContextMap()))
	}
	events, _ := m.seen()
	for _, e := range events {
		texts = append(texts, e.String(), fmt.Sprintf("%#v %#v", e.old, e.new))
	}
	for _, node := range m.Stat().Nodes() {
		texts = append(texts, node.String(), fmt.Sprintf("%#v", node))
	}
	for _, text := range texts {
		for _, form := range []string{password, url.QueryEscape(password), url.PathEscape(password)} {
			if strings.Contains(text, form) {
				m.t.Errorf("a password stands in %q", text)
			}
		}
	}
	if len(texts) == 0 {
		m.t.Error("there was no text to look at")
	}
}

// errorTexts returns all ways of printing an error and those it wraps.
func errorTexts(err error) []string {
	if err == nil {
		return nil
	}
	texts := []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%q", err)}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		texts = append(texts, errorTexts(e.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			texts = append(texts, errorTexts(inner)...)
		}
	}
	return texts
}

// hopeless acquires from a cluster that will never let it, and checks that the error says why.
func hopeless(t testing.TB, m *manager, node string, why ...string) error {
	t.Helper()
	must(t, m.WaitNextCheck(testContext(t)))
	err := acquireWithin(t, m, testContext(t))
	outOfBudget(t, err)
	for _, part := range append(why, "hasql: no master within", node) {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	return err
}

// warned checks that the first thing that the log says of a node is that it is not usable, why, and what to do.
func (m *manager) warned(node, why, advice string) {
	m.t.Helper()
	warnings := func() []observer.LoggedEntry { return m.logs.FilterLevelExact(zapcore.WarnLevel).All() }
	m.await("a warning", func(*hasql.Snapshot) bool { return len(warnings()) > 0 })
	first := warnings()[0]
	fields := first.ContextMap()
	if first.Message != "node is not usable" || fields["node"] != node || !strings.Contains(fmt.Sprint(fields["error"]), why) ||
		!strings.Contains(fmt.Sprint(fields["advice"]), advice) {
		m.t.Errorf("the log says %q first: %v", first.Message, fields)
	}
}

func TestWrongCredentialsAreToldByNodeAndCause(t *testing.T) {
	cluster := startCluster(t, pgcluster.Options{Password: secret})
	n := cluster.Nodes()[0]
	right := openReady(t, cluster, budget(3*time.Second)) // in which a busy machine makes four connections
	must(t, right.Master().Ping(testContext(t)))
	fill(t, right, 4)
	right.silentAbout(secret, acquireWithin(t, right, testContext(t)))

	const wrong = "wr0ng-Pa55w0rd"
	wrongPassword := strings.Replace(n.DSN(), url.UserPassword("postgres", secret).String(), "postgres:"+wrong, 1)
	const credentials = "check the user and the password"
	for name, test := range map[string]struct {
		dsn, code, says, advice, password string
	}{
		"password":                 {wrongPassword, "28P01", "password authentication failed", credentials, wrong},
		"password, sslmode=prefer": {strings.Replace(wrongPassword, "sslmode=disable", "", 1), "28P01", "password authentication failed", credentials, wrong},
		"database":                 {strings.Replace(n.DSN(), "/postgres?", "/nowhere?", 1), "3D000", "nowhere", "check the name of the database", secret},
		"user":                     {strings.Replace(n.DSN(), "//postgres:", "//nobody:", 1), "28P01", "nobody", credentials, secret},
		"a setting, misspelt":      {n.DSN() + "&statment_timeout=1", "42704", "statment_timeout", "check the settings in the DSN", secret},
		"a setting's value":        {n.DSN() + "&statement_timeout=soon", "22023", "soon", "check the settings in the DSN", secret},
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, test.dsn)
			err := acquireWithin(t, m, testContext(t)) // long before AcquireTimeout
			toldOnce(t, err, n.Addr()+" suspect", test.code, test.says, test.advice, "every node refuses the login")
			none, ok := errors.AsType[*hasql.NoNodeError](err)
			if !ok || !none.Refused || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("an acquire that is hopeless ended with %v", err)
			}
			m.warned(n.Addr(), test.code, test.advice)
			if pg, ok := errors.AsType[*pgconn.PgError](none.Nodes[0].Cause); !ok || pg.Code != test.code {
				t.Errorf("the server's error is not the cause of %v", err)
			}
			m.silentAbout(test.password, err, m.Ready(canceled(), 1, 0), m.Ready(canceled(), -1, -1))
		})
	}
}

func TestUnreachableNodesAreToldByNodeAndCause(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	refused := listener.Addr().String()
	must(t, listener.Close())
	for name, test := range map[string]struct{ addr, status, says, advice string }{
		"refused":      {refused, "down", "connection refused", "check host and port, and whether the server runs"},
		"unresolvable": {"no-such-host.invalid:5432", "suspect", "lookup", "check the host name"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, sslmode := range []string{"disable", "prefer", "verify-full"} {
				m := open(t, "postgres://postgres:"+url.QueryEscape(secret)+"@"+test.addr+"/postgres?sslmode="+sslmode, budget(300*time.Millisecond), quickly)
				err := hopeless(t, m, test.addr+" "+test.status)
				host, _, _ := net.SplitHostPort(test.addr)
				toldOnce(t, err, host, test.says, test.advice)
				m.warned(test.addr, test.says, test.advice)
				m.silentAbout(secret, err)
			}
		})
	}
}

func TestHostsThatAreWrongDoNotHarmTheOthers(t *testing.T) {
	calm := calmCluster(t)
	nodes := calm.Nodes()
	m := open(t, "postgres://postgres@127.0.0.1:1,"+nodes[0].Addr()+",no-such-host.invalid:1,"+nodes[1].Addr()+"/postgres?sslmode=disable", quickly)
	must(t, m.Ready(testContext(t), 1, 1))
	for range 20 {
		if got := servedBy(t, m.Master()); got != nodes[0].Addr() {
			t.Errorf("a write went to %s", got)
		}
		if got := servedBy(t, m.Replica()); got != nodes[1].Addr() {
			t.Errorf("a read went to %s", got)
		}
	}
}

// occupy takes all connections that the server has for ordinary roles.
func occupy(t testing.TB, dsn string) (free func()) {
	t.Helper()
	var held []*pgx.Conn
	free = func() {
		for _, conn := range held {
			conn.Close(context.Background())
		}
		held = nil
	}
	t.Cleanup(free)
	for {
		conn, err := pgx.Connect(testContext(t), dsn)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "53300" {
			return free
		}
		must(t, err)
		held = append(held, conn)
	}
}

// ordinary returns the DSN of a role without any grant, which it creates.
func ordinary(t testing.TB, n *pgcluster.Node, dsn string) string {
	t.Helper()
	execute(t, n, "do $$ begin create role app login; exception when duplicate_object then null; end $$")
	return strings.Replace(dsn, "postgres://postgres@", "postgres://app@", 1)
}

func TestServerWithoutFreeConnectionsIsWaitedFor(t *testing.T) {
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Parameters: map[string]string{"max_connections": "8", "superuser_reserved_connections": "3"}})
	n := cluster.Nodes()[0]
	dsn := ordinary(t, n, n.DSN())

	free := occupy(t, dsn)
	m := open(t, dsn, budget(500*time.Millisecond)) // nothing left for its monitor
	hopeless(t, m, n.Addr()+" suspect", "53300")
	free()
	must(t, m.Ready(ctx, 1, 0))
	must(t, m.Master().Ping(ctx))

	// Now the monitor has its connection, and the pool one that the test holds.
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	defer conn.Release()
	m.awaitEvent("the master", 0, func(e event) bool { return e.master })
	mark := m.mark()
	awaitSessions(t, n, 2, "usename = 'app'") // what was ended before leaves the server a moment later
	free = occupy(t, dsn)
	err = acquireWithin(t, m, ctx)
	outOfBudget(t, err)
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "53300" || !strings.Contains(err.Error(), n.Addr()+" up master") {
		t.Errorf("an acquire from a full server: %v", err)
	}
	if _, err := conn.Exec(ctx, "select 1"); err != nil {
		t.Errorf("a statement on the connection that there is: %v", err)
	}
	m.undisturbed(mark)
	free()
	must(t, acquireUntilDone(ctx, m))
}

// acquireUntilDone acquires until a budget suffices: sessions leave the server a moment after their clients.
func acquireUntilDone(ctx context.Context, m *manager) error {
	for {
		conn, err := m.AcquireMaster(ctx)
		if err == nil {
			conn.Release()
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
	}
}

func TestStandardCheckerNeedsNoGrant(t *testing.T) {
	cluster := calmCluster(t)
	master := cluster.Nodes()[0]
	dsn := ordinary(t, master, cluster.DSN())
	m := open(t, dsn)
	for _, n := range cluster.Nodes()[1:] {
		must(t, n.WaitStreaming(testContext(t), master)) // they know the role too
	}
	must(t, m.Ready(testContext(t), 1, 2))
	if user := scan[string](t, m.Master(), "select current_user"); user != "app" {
		t.Fatalf("connected as %s", user)
	}
	for node := range m.Snapshot().Nodes() {
		r := node.Report
		if r.Limited != nil || r.SystemID == 0 || r.LSN == 0 || r.StartTime.IsZero() || r.InRecovery != (node.Role == hasql.RoleReplica) {
			t.Errorf("%s reports %+v", node.Name, r)
		}
		if (r.Timeline == 1) != (node.Role == hasql.RoleMaster) {
			t.Errorf("%s reports timeline %d", node.Name, r.Timeline)
		}
	}
}

func TestServerThatRefusesTheFullProbeIsStillRouted(t *testing.T) {
	for name, refuse := range map[string]string{
		"for want of a right": "revoke execute on function pg_control_system() from public",
		"as Aurora does": `create schema aurora; grant usage on schema aurora to app;
			create function aurora.pg_current_wal_lsn() returns pg_lsn language plpgsql as
				$$ begin raise 'WAL control functions cannot be executed' using errcode = '55000'; end $$;
			alter role app set search_path = aurora, pg_catalog`,
	} {
		t.Run(name, func(t *testing.T) { testFullProbeRefused(t, refuse) })
	}
}

func testFullProbeRefused(t *testing.T, refuse string) {
	cluster := startCluster(t, pgcluster.Options{})
	master := cluster.Nodes()[0]
	dsn := ordinary(t, master, cluster.DSN())
	execute(t, master, refuse)
	m := open(t, dsn)
	must(t, m.Ready(testContext(t), 1, 0))
	must(t, m.Master().Ping(testContext(t)))
	if s := state(m.Snapshot(), master); s.Report.Limited == nil || s.Report.SystemID != 0 {
		t.Errorf("reported: %+v", s.Report)
	}
	m.awaitEvent("the master", 0, func(e event) bool { return e.master })
	for range 3 {
		must(t, m.WaitNextCheck(testContext(t)))
	}
	if warned := m.logs.FilterMessageSnippet("full probe was refused").Len(); warned != 1 {
		t.Errorf("%d warnings", warned)
	}
}
