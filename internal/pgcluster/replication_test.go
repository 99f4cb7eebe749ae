package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// history keeps what a cluster says it does.
type history struct {
	mu    sync.Mutex
	lines []string
}

func (h *history) logf(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, fmt.Sprintf(format, args...))
}

func (h *history) has(line string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Contains(strings.Join(h.lines, "\n"), line)
}

func TestKilledMasterRejoinsByRewind(t *testing.T) {
	t.Parallel()
	var told history
	cluster := startCluster(t, Options{Replicas: 2, Logf: told.logf})
	ctx := testContext(t)
	old, next, other := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	execute(t, old, "create table t (n int)")
	must(t, next.WaitStreaming(ctx, old))
	must(t, next.Kill()) // what follows never reaches it
	execute(t, old, "insert into t values (1)")
	must(t, other.WaitStreaming(ctx, old))
	must(t, old.Kill())

	must(t, next.Start(ctx))
	must(t, next.Promote(ctx))
	execute(t, next, "insert into t values (2)")
	must(t, old.Rejoin(ctx, next))
	if !told.has("n1: rejoined n2 by pg_rewind") {
		t.Errorf("told: %q", told.lines)
	}
	// The other replica had more than the new master, so it cannot just follow.
	must(t, other.Rejoin(ctx, next))
	for _, n := range cluster.Nodes() {
		if got := scan[string](t, n, "select string_agg(n::text, ',') from t"); got != "2" {
			t.Errorf("%s has %s", n.Name(), got)
		}
	}
}

func TestFailoverPromotesTheStandbyThatReceivedMost(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 2})
	ctx := testContext(t)
	old, behind, ahead := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	execute(t, old, "create table t (n int)")
	must(t, behind.WaitStreaming(ctx, old))
	_, err := behind.Detach(ctx)
	must(t, err)
	execute(t, old, "insert into t values (1)")
	must(t, ahead.WaitStreaming(ctx, old))
	must(t, old.Freeze()) // it lives on, and must not be followed any more

	ranked, err := Failover(ctx, behind, ahead)
	must(t, err)
	if len(ranked) != 2 || ranked[0] != ahead || ranked[1] != behind {
		t.Fatalf("elected in the order %s, %s", ranked[0].Name(), ranked[1].Name())
	}
	execute(t, ahead, "insert into t values (2)")
	must(t, behind.WaitStreaming(ctx, ahead))
	must(t, old.Rejoin(ctx, ahead))
	for _, n := range cluster.Nodes() {
		if got := scan[string](t, n, "select string_agg(n::text, ',' order by n) from t"); got != "1,2" {
			t.Errorf("%s has %s", n.Name(), got)
		}
	}
}

func TestFailoverFailsWhereAStandbyDoesNotAnswer(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 2})
	ctx := testContext(t)
	dead, alive := cluster.Nodes()[1], cluster.Nodes()[2]
	must(t, dead.Kill())
	if _, err := Failover(ctx, alive, dead); err == nil || !strings.Contains(err.Error(), dead.Name()) {
		t.Errorf("got %v", err)
	}
	must(t, alive.Follow(ctx, cluster.Nodes()[0]))
	must(t, alive.WaitStreaming(ctx, cluster.Nodes()[0]))
}

func TestStandbyThatIsNotAheadFollows(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 2})
	ctx := testContext(t)
	old, next, other := cluster.Nodes()[0], cluster.Nodes()[1], cluster.Nodes()[2]
	must(t, old.Stop(ctx, StopFast)) // all standbys have all
	must(t, next.Promote(ctx))
	execute(t, next, "create table t as select 1 as one")
	must(t, other.Follow(ctx, next))
	must(t, other.WaitStreaming(ctx, next))
	must(t, other.Kill())
	must(t, other.Start(ctx))
	must(t, other.WaitStreaming(ctx, next))
	if got := scan[int](t, other, "select one from t"); got != 1 {
		t.Errorf("read %d", got)
	}
	must(t, old.Rejoin(ctx, next))
}

func TestRejoinOfANodeThatRuns(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 1})
	ctx := testContext(t)
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	for _, stale := range []func() error{old.Freeze, func() error { return nil }} {
		must(t, stale())
		must(t, next.Promote(ctx)) // two masters
		must(t, old.Rejoin(ctx, next))
		must(t, next.Kill())
		must(t, old.Promote(ctx))
		must(t, next.Rejoin(ctx, old))
	}
}

func TestKilledStandbyRejoins(t *testing.T) {
	t.Parallel()
	var told history
	cluster := startCluster(t, Options{Replicas: 1, Logf: told.logf})
	ctx := testContext(t)
	master, replica := cluster.Nodes()[0], cluster.Nodes()[1]
	must(t, replica.Kill())
	execute(t, master, "create table t as select 1 as one")
	must(t, replica.Rejoin(ctx, master))
	if told.has("base backup") {
		t.Errorf("told: %q", told.lines)
	}
	if got := scan[int](t, replica, "select one from t"); got != 1 {
		t.Errorf("read %d", got)
	}
}

func TestRejoinByBaseBackupWhenRewindFails(t *testing.T) {
	t.Parallel()
	var told history
	cluster := startCluster(t, Options{Replicas: 1, Logf: told.logf})
	ctx := testContext(t)
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	must(t, old.Kill())
	must(t, os.Remove(old.dataDir()+"/global/pg_control"))
	must(t, next.Promote(ctx))
	execute(t, next, "create table t as select 1 as one")
	must(t, old.Rejoin(ctx, next))
	if !told.has("n1: rejoined n2 by base backup") {
		t.Errorf("told: %q", told.lines)
	}
	if got := scan[int](t, old, "select one from t"); got != 1 {
		t.Errorf("read %d", got)
	}
}

func TestSynchronousCommitWaitsForAStandby(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 1})
	ctx := testContext(t)
	master, replica := cluster.Nodes()[0], cluster.Nodes()[1]
	must(t, cluster.SetSynchronous(ctx, master, 1))
	execute(t, master, "create table t (n int)")
	must(t, replica.Freeze())
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := connect(t, master).Exec(short, "insert into t values (1)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a commit without standby: %v", err)
	}
	must(t, cluster.SetSynchronous(ctx, master, 0))
	execute(t, master, "insert into t values (2)")
	must(t, replica.Thaw())

	must(t, cluster.SetSynchronous(ctx, master, 1))
	must(t, master.Kill())
	must(t, replica.Promote(ctx))
	if got := scan[string](t, replica, "show synchronous_standby_names"); got != "ANY 1 (n1, n2)" {
		t.Errorf("the promoted node has %q", got)
	}
	must(t, master.Rejoin(ctx, replica))
	execute(t, replica, "insert into t values (3)")
}

func TestWaitStreamingEndsWithTheNode(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 1})
	master, replica := cluster.Nodes()[0], cluster.Nodes()[1]
	must(t, replica.Kill())
	err := replica.WaitStreaming(testContext(t), master)
	if err == nil || !strings.Contains(err.Error(), "n2: stream from n1") || !strings.Contains(err.Error(), "its log ends") {
		t.Errorf("got %v", err)
	}
}

func TestDetachedStandbyReceivesNothingUntilItFollows(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, Options{Replicas: 1})
	ctx := testContext(t)
	master, standby := cluster.Nodes()[0], cluster.Nodes()[1]
	execute(t, master, "create table t (n int)")
	must(t, standby.WaitStreaming(ctx, master))
	received, err := standby.Detach(ctx)
	must(t, err)
	execute(t, master, "insert into t values (1)")
	again, err := standby.Detach(ctx)
	must(t, err)
	if received == 0 || again != received {
		t.Errorf("received %d, and %d after another write", received, again)
	}
	if n := scan[int](t, standby, "select count(*) from t"); n != 0 {
		t.Errorf("the detached standby has %d rows", n)
	}
	must(t, standby.Follow(ctx, master))
	must(t, standby.WaitStreaming(ctx, master))
	if n := scan[int](t, standby, "select count(*) from t"); n != 1 {
		t.Errorf("the standby has %d rows", n)
	}
	if _, err := master.Detach(ctx); err == nil {
		t.Error("a master was detached")
	}
}
