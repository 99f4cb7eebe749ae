package integration

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/pghasql/hasql"
)

// reader reads from replicas until the test ends it.
type reader struct {
	t     testing.TB
	stop  context.CancelFunc
	done  sync.WaitGroup
	reads chan struct{} // gets one for each read that progress waits for

	failures []failure // valid once done
}

func startReader(t testing.TB, m *manager) *reader {
	ctx, stop := context.WithCancel(testContext(t))
	r := &reader{t: t, stop: stop, reads: make(chan struct{})}
	t.Cleanup(func() {
		stop()
		r.done.Wait()
	})
	r.done.Go(func() {
		for ctx.Err() == nil {
			node, err := read(ctx, m.Replica())
			if err != nil && ctx.Err() == nil {
				r.failures = append(r.failures, failure{node, err})
			}
			select {
			case r.reads <- struct{}{}:
			default:
			}
		}
	})
	return r
}

// read reads from a node that the route chooses, and returns its name, "" if no connection was acquired.
func read(ctx context.Context, route *hasql.Route) (node string, err error) {
	conn, err := route.Acquire(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Release()
	_, err = conn.Exec(ctx, "select 1")
	return nodeOf(conn), err
}

// progress waits for n reads.
func (r *reader) progress(n int) {
	r.t.Helper()
	ctx := testContext(r.t)
	for range n {
		select {
		case <-r.reads:
		case <-ctx.Done():
			r.t.Fatal("the reader is stuck")
		}
	}
}

// end stops the reader and checks that it failed only on the nodes given.
func (r *reader) end(mayFail ...node) {
	r.t.Helper()
	r.stop()
	r.done.Wait()
	for _, f := range r.failures {
		if !slices.ContainsFunc(mayFail, func(n node) bool { return n.Addr() == f.node }) {
			r.t.Errorf("a read failed on %q: %v", f.node, f.err)
		}
	}
}
