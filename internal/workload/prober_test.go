package workload

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// TestProbersFindTheNewMaster fails a real cluster over: the probers' writes go to the old master, then to the new one, and
// their timelines say so.
func TestProbersFindTheNewMaster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Replicas: 1, Logf: t.Logf})
	if errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") != "1" {
		t.Skip(err)
	}
	must(t, err)
	defer func() { must(t, cluster.Close()) }()
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]

	type accepted struct {
		node     *pgcluster.Node
		timeline uint32
	}
	writes := make(chan accepted)
	var probing sync.WaitGroup
	defer probing.Wait()
	probed, stop := context.WithCancel(ctx)
	defer stop()
	for _, n := range cluster.Nodes() {
		p := &Prober{Connect: n.Conn, Accepted: func(sent, done time.Time, timeline uint32) {
			if done.Before(sent) {
				t.Errorf("a write was acknowledged %v before it was sent", sent.Sub(done))
			}
			select {
			case writes <- accepted{n, timeline}:
			case <-probed.Done():
			}
		}}
		probing.Go(func() { p.Run(probed) })
	}
	receive := func() (a accepted) {
		t.Helper()
		select {
		case a = <-writes:
		case <-ctx.Done():
			t.Fatal("no node accepts writes")
		}
		return a
	}
	conn, err := old.Conn(ctx)
	must(t, err)
	_, err = conn.Exec(ctx, ProbeSchema) // the probers are at work already
	must(t, err)
	must(t, conn.Close(ctx))
	for range 3 {
		if got := receive(); got != (accepted{old, 1}) {
			t.Fatalf("%s accepted a write on timeline %d", got.node.Name(), got.timeline)
		}
	}
	must(t, next.WaitStreaming(ctx, old)) // it has the table
	must(t, old.Kill())
	_, err = pgcluster.Failover(ctx, next)
	must(t, err)
	first := receive()
	if first.node == old {
		first = receive() // a write from before the kill was still to be received
	}
	for _, got := range []accepted{first, receive(), receive()} {
		if got != (accepted{next, 2}) {
			t.Fatalf("%s accepted a write on timeline %d", got.node.Name(), got.timeline)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
