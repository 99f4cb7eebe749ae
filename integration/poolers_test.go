package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// pooler is a program between the clients and one node of a cluster, or several.
type pooler struct {
	box     *pgcluster.Sandbox
	name    string
	addr    string
	program string
	args    []string
}

// newPooler finds the program, which the test needs: without it the test is skipped, or fails where
// HASQL_REQUIRE_POOLERS=1 says that it must be there.
func newPooler(t testing.TB, box *pgcluster.Sandbox, name, program string, args ...string) *pooler {
	t.Helper()
	path, err := pgcluster.FindProgram(program)
	if err != nil && os.Getenv("HASQL_REQUIRE_POOLERS") != "1" {
		t.Skipf("skipped, because %s is missing: %v", program, err)
	}
	must(t, err)
	return &pooler{box: box, name: name, program: path, args: args}
}

// Addr is where clients connect.
func (p *pooler) Addr() string { return p.addr }

func (p *pooler) start(t testing.TB) {
	t.Helper()
	_, err := p.box.Start(p.name, p.program, p.args...)
	must(t, err)
}

func (p *pooler) kill(t testing.TB) {
	t.Helper()
	must(t, p.box.Kill(testContext(t), p.name))
}

func (p *pooler) restart(t testing.TB) {
	t.Helper()
	p.kill(t)
	p.start(t)
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

func newSandbox(t testing.TB) *pgcluster.Sandbox {
	t.Helper()
	box, err := pgcluster.NewSandbox()
	must(t, err)
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	return box
}

func reserve(t testing.TB, box *pgcluster.Sandbox) int {
	t.Helper()
	port, err := box.Reserve()
	must(t, err)
	return port
}

// bouncerConfig is PgBouncer's for one node. server_login_retry is how long it refuses to try again a server that was not
// there; its default is 15 s.
const bouncerConfig = `[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = userlist.txt
pool_mode = transaction
server_login_retry = 1
`

// startBouncers puts a PgBouncer in transaction mode before every node.
func startBouncers(t testing.TB, c *pgcluster.Cluster) []*pooler {
	t.Helper()
	box := newSandbox(t)
	var bouncers []*pooler
	for _, n := range c.Nodes() {
		b := newPooler(t, box, n.Name(), "pgbouncer", "pgbouncer.ini")
		port := reserve(t, box)
		b.addr = local(port)
		must(t, box.Write(filepath.Join(b.name, "pgbouncer.ini"), fmt.Sprintf(bouncerConfig, n.Port(), port)))
		must(t, box.Write(filepath.Join(b.name, "userlist.txt"), `"postgres" ""`+"\n"))
		b.start(t)
		bouncers = append(bouncers, b)
	}
	return bouncers
}

// dsnThrough is a DSN of poolers.
func dsnThrough(poolers ...*pooler) string {
	addrs := make([]string, len(poolers))
	for i, p := range poolers {
		addrs[i] = p.addr
	}
	return "postgres://postgres@" + strings.Join(addrs, ",") + "/postgres?sslmode=disable"
}

// unprepared keeps pgx from preparing statements, which stay on a server's session when the client gets another one.
const unprepared = "&default_query_exec_mode=exec"

// rolesAreRight checks who serves writes and reads behind the poolers.
func rolesAreRight(t testing.TB, m *manager, master *pgcluster.Node) {
	t.Helper()
	for range 20 {
		if got := servedBy(t, m.Master()); got != master.Addr() {
			t.Fatalf("a write went to %s", got)
		}
		if got := servedBy(t, m.Replica()); got == master.Addr() {
			t.Fatal("a read went to the master")
		}
	}
}

func TestPgBouncerBeforeEveryNode(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	old := cluster.Nodes()[0]
	must(t, cluster.SetSynchronous(ctx, old, 1))
	bouncers := startBouncers(t, cluster)
	before := func(n *pgcluster.Node) *pooler { return bouncers[slices.Index(cluster.Nodes(), n)] }
	m := open(t, dsnThrough(bouncers...)+unprepared, func(c *hasql.Config) { c.CheckTimeout = 2 * time.Second })
	must(t, m.Ready(ctx, 1, 2))
	rolesAreRight(t, m, old)
	for s := range m.Snapshot().Nodes() {
		if r := s.Report; !r.Pooler || r.Limited != nil || r.SystemID == 0 || r.StartTime.IsZero() {
			t.Errorf("%s reports %+v", s.Name, r)
		}
	}

	// Writers mix up which session of the server serves whom, the probes included.
	w := startWriters(t, m, 4)
	mark := m.mark()
	for range 20 {
		must(t, m.WaitNextCheck(ctx))
		w.progress(5)
	}
	m.undisturbed(mark)

	must(t, old.Kill())
	// PgBouncer accepts clients and says that the server is not there (08P01), or lets them wait without a word.
	m.await("the master not to be up", func(s *hasql.Snapshot) bool { return state(s, before(old)).Status != hasql.StatusUp })
	if _, err := m.AcquireMaster(canceled()); err == nil || !strings.Contains(err.Error(), before(old).Addr()+" suspect") {
		t.Errorf("with the master dead behind its PgBouncer, an acquire got: %v", err)
	}
	next, _ := failOver(t, cluster.Nodes()[1], cluster.Nodes()[2])
	m.awaitMaster(before(next))
	w.progress(20)

	before(next).restart(t)
	w.progress(20)

	must(t, old.Rejoin(ctx, next))
	must(t, m.Ready(ctx, 1, 2))
	rolesAreRight(t, m, next)
	w.end(next, before(old), before(next))
	if n := len(w.failures); n > 8 { // what the four were at, twice
		t.Errorf("%d writes failed", n)
	}
	if warned := m.logs.FilterMessageSnippet("pooler").Len(); warned != len(bouncers) {
		t.Errorf("%d warnings about poolers", warned)
	}
}

// startHAProxy starts an HAProxy with these sections. It does not retry what was refused, as every retry of its takes a
// second, and ends the sessions of a server that fails its check.
func startHAProxy(t testing.TB, box *pgcluster.Sandbox, sections string) *pooler {
	t.Helper()
	p := newPooler(t, box, "haproxy", "haproxy", "-db", "-f", "haproxy.cfg")
	must(t, box.Write("haproxy/haproxy.cfg", `defaults
	mode tcp
	timeout connect 1s
	timeout client 1h
	timeout server 1h
	timeout check 1s
	retries 0
	default-server inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
`+sections))
	p.start(t)
	return p
}

func TestHAProxyBeforeEveryNode(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	old := cluster.Nodes()[0]
	must(t, cluster.SetSynchronous(ctx, old, 1))
	box := newSandbox(t)
	var frontends []*pooler
	var sections strings.Builder
	for _, n := range cluster.Nodes() {
		addr := local(reserve(t, box))
		fmt.Fprintf(&sections, "listen %s\n\tbind %s\n\tserver it %s check\n", n.Name(), addr, n.Addr())
		frontends = append(frontends, &pooler{addr: addr})
	}
	before := func(n *pgcluster.Node) *pooler { return frontends[slices.Index(cluster.Nodes(), n)] }
	haproxy := startHAProxy(t, box, sections.String())
	m := open(t, dsnThrough(frontends...))
	must(t, m.Ready(ctx, 1, 2))
	rolesAreRight(t, m, old)
	w := startWriters(t, m, 4)
	w.progress(20)

	must(t, old.Kill())
	m.awaitStatus(before(old), hasql.StatusDown) // HAProxy accepts a connection and ends it at once
	next, _ := failOver(t, cluster.Nodes()[1], cluster.Nodes()[2])
	m.awaitMaster(before(next))
	w.progress(20)

	must(t, old.Rejoin(ctx, next))
	must(t, m.Ready(ctx, 1, 2))
	rolesAreRight(t, m, next)

	haproxy.restart(t)
	w.progress(20)
	w.end(next, before(old), before(next))
}

// TestHAProxyThatFollowsTheLeader has one address for the master, whichever node that is, as is usual with Patroni.
func TestHAProxyThatFollowsTheLeader(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	cluster := startCluster(t, pgcluster.Options{Replicas: 2})
	old := cluster.Nodes()[0]
	must(t, cluster.SetSynchronous(ctx, old, 1))
	box := newSandbox(t)
	leader := &pooler{addr: local(reserve(t, box))}
	var section strings.Builder
	fmt.Fprintf(&section, "listen leader\n\tbind %s\n\toption httpchk OPTIONS /primary\n\thttp-check expect status 200\n", leader.addr)
	for _, n := range cluster.Nodes() {
		fmt.Fprintf(&section, "\tserver %s %s check addr 127.0.0.1 port %d\n", n.Name(), n.Addr(), primaryCheck(t, n))
	}
	startHAProxy(t, box, section.String())
	for strings.Count(box.Log("haproxy"), "is DOWN") < 2 { // until then it takes the replicas for leaders too
		must(t, ctx.Err())
	}
	m := open(t, dsnThrough(leader), func(c *hasql.Config) { c.FallbackMaster = true })
	must(t, m.Ready(ctx, 1, 0))
	w := startWriters(t, m, 4)
	w.progress(20)

	must(t, old.Kill())
	m.awaitStatus(leader, hasql.StatusDown)
	next, _ := failOver(t, cluster.Nodes()[1], cluster.Nodes()[2])
	m.awaitMaster(leader)
	w.progress(20)
	for name, route := range map[string]*hasql.Route{"write": m.Master(), "read": m.Replica()} {
		if got := servedBy(t, route); got != next.Addr() {
			t.Errorf("a %s went to %s", name, got)
		}
	}
	if s := state(m.Snapshot(), leader); s.Report.Timeline != 2 {
		t.Errorf("the leader's address: %s, timeline %d", s.String(), s.Report.Timeline)
	}

	must(t, old.Rejoin(ctx, next))
	w.progress(20)
	w.end(next, leader)
}

// primaryCheck answers OPTIONS /primary for a node by 200 or 503, as Patroni's REST API does, and returns its port.
func primaryCheck(t testing.TB, n *pgcluster.Node) int {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inRecovery := true
		conn, err := n.Conn(r.Context())
		if err == nil {
			err = conn.QueryRow(r.Context(), "select pg_is_in_recovery()").Scan(&inRecovery)
			_ = conn.Close(r.Context())
		}
		if err != nil || inRecovery || r.URL.Path != "/primary" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}
