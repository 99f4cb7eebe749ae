package pgcluster

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestReplicasStreamOnceStartReturns(t *testing.T) {
	t.Parallel()
	const note = `it's a \ setting`
	cluster := startCluster(t, Options{Replicas: 2, Parameters: map[string]string{"hasql.note": note}})
	ctx := testContext(t)
	master := cluster.Nodes()[0]
	execute(t, master, "create table t as select 42 as answer")
	for _, n := range cluster.Nodes()[1:] {
		must(t, n.WaitStreaming(ctx, master))
		if got := scan[int](t, n, "select answer from t"); got != 42 {
			t.Errorf("%s read %d", n.Name(), got)
		}
		if !scan[bool](t, n, "select pg_is_in_recovery()") {
			t.Errorf("%s is no replica", n.Name())
		}
	}
	var systems []string
	for _, n := range cluster.Nodes() {
		systems = append(systems, scan[string](t, n, "select system_identifier::text from pg_control_system()"))
		if got := scan[string](t, n, "show hasql.note"); got != note {
			t.Errorf("%s: the setting is %q", n.Name(), got)
		}
	}
	if len(slices.Compact(systems)) != 1 {
		t.Errorf("system identifiers differ: %v", systems)
	}
}

func TestDSNsConnect(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 1})
	ctx := testContext(t)
	config, err := pgx.ParseConfig(cluster.DSN())
	must(t, err)
	if len(config.Fallbacks) != 1 || config.ValidateConnect != nil {
		t.Errorf("%s: want two addresses and no demand on either", cluster.DSN())
	}
	for _, n := range cluster.Nodes() {
		conn, err := pgx.Connect(ctx, n.DSN())
		must(t, err)
		var port int
		must(t, conn.QueryRow(ctx, "select inet_server_port()").Scan(&port))
		must(t, conn.Close(ctx))
		if port != n.Port() || n.Addr() != net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) {
			t.Errorf("%s is at %d, and says %s", n.Name(), port, n.Addr())
		}
	}
}

func TestPasswordIsAskedFor(t *testing.T) {
	t.Parallel()
	const password = `it's "secret" \ @:/?#`
	cluster := startCluster(t, Options{Replicas: 1, Password: password})
	ctx := testContext(t)
	master, replica := cluster.Nodes()[0], cluster.Nodes()[1]
	wrong, err := pgx.ParseConfig(master.DSN())
	must(t, err)
	wrong.Password = "wrong"
	if _, err := pgx.ConnectConfig(ctx, wrong); pgCode(err) != "28P01" {
		t.Errorf("a wrong password got %v", err)
	}
	must(t, master.Kill())
	must(t, replica.Promote(ctx))
	must(t, master.Rejoin(ctx, replica)) // pg_rewind and streaming know the password
	must(t, master.Rebuild(ctx, replica))
	if strings.Contains(cluster.nodes[0].log(0), "secret") {
		t.Error("the password is in the server's log")
	}
}

func TestNodesStartWithTheirFilesAndLines(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{
		Replicas:   1,
		HBA:        []string{"host nowhere all samenet reject"},
		Parameters: map[string]string{"include": "extra.conf"},
		Prepare:    func(n *Node) error { return n.WriteFile("extra.conf", "hasql.note = 'of "+n.Name()+"'") },
	})
	for _, n := range cluster.Nodes() {
		if got := scan[string](t, n, "show hasql.note"); got != "of "+n.Name() {
			t.Errorf("%s: the setting is %q", n.Name(), got)
		}
		refused, err := pgx.ParseConfig(n.DSN())
		must(t, err)
		refused.Database = "nowhere"
		if _, err := pgx.ConnectConfig(testContext(t), refused); pgCode(err) != "28000" {
			t.Errorf("%s: what a line rejects got %v", n.Name(), err)
		}
	}
}

func TestStartTakesOtherPortsWhenItsOwnAreTaken(t *testing.T) {
	t.Parallel()
	if _, err := FindBinDir(); err != nil {
		startCluster(t, Options{}) // skips or fails
	}
	var squatters []net.Listener
	calls := 0
	cluster, err := start(testContext(t), Options{Replicas: 1, Logf: t.Logf}, func() (*port, error) {
		calls++
		p, err := reservePort()
		if calls == 1 && err == nil {
			squatter, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p.number))
			if err != nil {
				return nil, err
			}
			squatters = append(squatters, squatter)
		}
		return p, err
	})
	must(t, err)
	defer cluster.Close()
	for _, squatter := range squatters {
		if squatter.Addr().String() == cluster.Nodes()[0].Addr() {
			t.Error("the master has the taken port")
		}
		must(t, squatter.Close())
	}
	if len(squatters) != 1 || len(cluster.Nodes()) != 2 {
		t.Errorf("%d squatters, %d nodes", len(squatters), len(cluster.Nodes()))
	}
	must(t, cluster.Close())
}

func TestADeadNodesPortRefusesAndIsGivenToNobody(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{})
	n := cluster.Nodes()[0]
	must(t, n.Kill())
	ctx := testContext(t)
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.Addr())
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		must(t, err)
		must(t, conn.Close()) // the kernel has not closed everything of the dead yet
	}
	must(t, n.Start(ctx))
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 2})
	must(t, cluster.Nodes()[0].Kill())
	must(t, cluster.Nodes()[1].Freeze())
	segments := make(map[string]bool)
	for _, n := range cluster.Nodes() {
		segments[strings.Fields(n.lockFile()[6])[1]] = true
	}
	nodes := cluster.Nodes()
	must(t, cluster.Close())
	must(t, cluster.Close())
	for _, n := range nodes {
		if left, err := n.processes(); err != nil || len(left) > 0 {
			t.Errorf("%s: processes left: %v %v", n.Name(), left, err)
		}
	}
	if _, err := os.Stat(cluster.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", cluster.Dir(), err)
	}
	table, err := os.ReadFile("/proc/sysvipc/shm")
	must(t, err)
	for line := range strings.Lines(string(table)) {
		if id := strings.Fields(line)[1]; segments[id] {
			t.Errorf("shared memory %s left", id)
		}
	}
}

func TestABrokenCacheIsBuiltAnew(t *testing.T) {
	if _, err := FindBinDir(); err != nil {
		startCluster(t, Options{}) // skips or fails
	}
	memory, err := tempDir()
	must(t, err)
	temp, err := os.MkdirTemp(memory, "hasql-pgcluster-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(temp) })
	must(t, os.Chmod(temp, 0o777))
	t.Setenv("TMPDIR", temp)
	must(t, startCluster(t, Options{}).Close())
	bases, err := filepath.Glob(filepath.Join(temp, "hasql-pgcluster-*", "base-*"))
	must(t, err)
	if len(bases) != 1 {
		t.Fatalf("cached bases: %v", bases)
	}
	must(t, os.Remove(filepath.Join(bases[0], "data", "global", "1262"))) // pg_database
	cluster := startCluster(t, Options{})
	if got := scan[int](t, cluster.Nodes()[0], "select count(*) from pg_database"); got != 3 {
		t.Errorf("%d databases", got)
	}
	must(t, cluster.Close())
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestStartSaysWhyItCannot(t *testing.T) {
	ctx := testContext(t)
	empty := t.TempDir()
	for name, opts := range map[string]Options{
		"has no executable postgres":  {BinDir: empty},
		"Replicas is -1":              {Replicas: -1},
		"1 Options.Hosts for 2 nodes": {Replicas: 1, Hosts: []Host{localhost}},
		"control characters":          {Password: "a\nb"},
	} {
		if _, err := Start(ctx, opts); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
	t.Setenv("PGBINDIR", empty)
	if _, err := FindBinDir(); !errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), empty) {
		t.Errorf("FindBinDir: %v", err)
	}
}

func TestABadSettingShowsItsLog(t *testing.T) {
	t.Parallel()
	if _, err := FindBinDir(); err != nil {
		startCluster(t, Options{}) // skips or fails
	}
	cluster, err := Start(testContext(t), Options{Parameters: map[string]string{"no_such_setting": "1"}})
	if err == nil {
		cluster.Close()
	}
	if err == nil || !strings.Contains(err.Error(), `n1: start`) || !strings.Contains(err.Error(), `"no_such_setting"`) {
		t.Errorf("got %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if cluster, err := Start(ctx, Options{}); err == nil {
		cluster.Close()
		t.Error("a cluster, though the context had ended")
	}
}

// pgCode returns the SQLSTATE of an error, "" if it has none.
func pgCode(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

func BenchmarkStart(b *testing.B) {
	startCluster(b, Options{Replicas: 2, Logf: func(string, ...any) {}}) // fills the cache
	for b.Loop() {
		cluster, err := Start(b.Context(), Options{Replicas: 2})
		must(b, err)
		b.StopTimer()
		must(b, cluster.Close())
		b.StartTimer()
	}
}
