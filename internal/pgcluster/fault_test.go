package pgcluster

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestKilledNodeRecoversWhatItCommitted(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{})
	n := cluster.Nodes()[0]
	execute(t, n, "create table t as select 1 as one")
	client := connect(t, n)
	must(t, n.Kill())
	if n.Running() {
		t.Error("a killed node runs")
	}
	if left, err := n.processes(); err != nil || len(left) > 0 {
		t.Errorf("processes left: %v %v", left, err)
	}
	if err := client.Ping(testContext(t)); err == nil {
		t.Error("a client's connection outlived the kill")
	}
	must(t, n.Kill()) // there is nothing to do
	must(t, n.Start(testContext(t)))
	if got := scan[int](t, n, "select one from t"); got != 1 {
		t.Errorf("read %d", got)
	}
	if err := n.Start(testContext(t)); err == nil {
		t.Error("started twice")
	}
}

func TestFrozenNodeIsSilentUntilThawed(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 1})
	n := cluster.Nodes()[0]
	client := connect(t, n).PgConn()
	must(t, n.Freeze())
	processes, err := n.processes()
	must(t, err)
	if len(processes) < 5 {
		t.Errorf("only %d processes", len(processes))
	}
	for _, p := range processes {
		if !p.stopped() {
			t.Errorf("process %d is in state %c", p.pid, p.state)
		}
	}
	if !n.Running() {
		t.Error("a frozen node does not run")
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Conn(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new connection got %v", err)
	}
	answer := make(chan error, 1)
	aWhile, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go func() { answer <- client.Exec(context.Background(), "select 1").Close() }()
	select {
	case err := <-answer:
		t.Errorf("a frozen node answered: %v", err)
	case <-aWhile.Done():
	}
	must(t, n.Thaw())
	must(t, <-answer)
	must(t, n.Thaw()) // there is nothing to do
}

func TestFrozenNodeCanBeKilledAndStopped(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{})
	ctx := testContext(t)
	n := cluster.Nodes()[0]
	must(t, n.Freeze())
	must(t, n.Kill())
	must(t, n.Start(ctx))
	must(t, n.Freeze())
	must(t, n.Stop(ctx, StopFast))
	must(t, n.Start(ctx))
	if err := n.Promote(ctx); err == nil {
		t.Error("a master was promoted")
	}
	if err := n.Follow(ctx, n); err == nil {
		t.Error("a master follows")
	}
}

func TestStopModesTellClients(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{})
	n := cluster.Nodes()[0]
	for mode, code := range map[StopMode]string{StopFast: "57P01", StopImmediate: "57P02"} {
		client := connect(t, n)
		must(t, n.Stop(testContext(t), mode))
		if n.Running() {
			t.Errorf("%v: still running", mode)
		}
		if err := client.Ping(testContext(t)); err == nil || pgCode(err) != "" && pgCode(err) != code {
			t.Errorf("%v: the client got %v, want %s or an end", mode, err, code)
		}
		if err := n.Stop(testContext(t), mode); err == nil {
			t.Errorf("%v: stopped twice", mode)
		}
		must(t, n.Start(testContext(t)))
	}
}

func TestSmartStopWaitsForClients(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{})
	n := cluster.Nodes()[0]
	client := connect(t, n)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := n.Stop(short, StopSmart); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a smart stop with a client: %v", err)
	}
	must(t, client.Ping(testContext(t)))
	must(t, client.Close(testContext(t)))
	must(t, poll(testContext(t), func() (bool, error) { return !n.Running(), nil }))
}

func TestKillBackendRestartsTheServerInside(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{})
	n := cluster.Nodes()[0]
	victim, witness := connect(t, n), connect(t, n)
	if err := n.KillBackend(os.Getpid()); err == nil {
		t.Fatal("killed the test?")
	}
	must(t, n.KillBackend(int(victim.PgConn().PID())))
	must(t, poll(testContext(t), func() (bool, error) { return witness.Ping(testContext(t)) != nil, nil }))
	if !n.Running() {
		t.Error("the postmaster is gone")
	}
	must(t, poll(testContext(t), func() (bool, error) {
		conn, err := n.Conn(testContext(t))
		if err != nil {
			return false, nil // 57P03 while it recovers
		}
		return true, conn.Close(testContext(t))
	}))
}

func TestKilledPostmasterLeavesBusyBackends(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{})
	ctx := testContext(t)
	n := cluster.Nodes()[0]
	client := connect(t, n).PgConn()
	// A busy backend does not look after its postmaster. The first row, which the next ones push out of the server's
	// buffer, tells that it has begun.
	busy := client.Exec(ctx, `select repeat('x', 10000) from generate_series(1, 3)
		union all select count(*)::text from generate_series(1, 100000) a, generate_series(1, 100000) b`)
	if !busy.NextResult() || !busy.ResultReader().NextRow() {
		t.Fatal("no first row")
	}
	must(t, n.KillPostmaster())
	if n.Running() {
		t.Error("running without postmaster")
	}
	if left, err := n.processes(); err != nil || len(left) == 0 {
		t.Errorf("no process left (%v)", err)
	}
	must(t, n.Kill())
	for busy.ResultReader().NextRow() { // what had arrived before
	}
	if err := busy.Close(); err == nil || pgconn.Timeout(err) {
		t.Errorf("the query ended with %v", err)
	}
	must(t, n.Start(ctx))
}
