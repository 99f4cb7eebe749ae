package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
)

const (
	application = "chaos" // application_name of the services
	replicas    = 2

	// patience is the time limit of one failover, including the return of the old master.
	patience = 2 * time.Minute
	// progressOps is how many operations each client must complete before a fault, and after it.
	progressOps = 10
)

// parameters make a server check for a shutdown at more places than it does by default: wherever it logs the duration of a
// statement, which is after the commit.
var parameters = map[string]string{"log_duration": "on"}

// testbed is a cluster with services at work on it. Some services reach the nodes directly, others through proxies, so a
// partition can separate some services from a node that others still reach.
type testbed struct {
	cluster  *pgcluster.Cluster
	nodes    []*pgcluster.Node
	proxies  []*pgproxy.Proxy
	services []*service
	recorder *recorder

	term     atomic.Pointer[term]
	lastMark atomic.Int64

	seed    uint64 // of the clients' random numbers
	clients []*client
	working sync.WaitGroup
	resting context.Context // its end lets the clients finish their operation
	halt    context.CancelFunc
}

// term is the time of one master, from just before its promotion on.
type term struct {
	node  int
	epoch int  // number of failovers so far that may have lost acknowledged writes
	lossy bool // the failover that began this term may have lost some
	// doubtful are replicas whose position in the WAL does not say which writes they show. A replica that has diverged is
	// one, until services know it. A replica that is rebuilt while commits wait for it is another one: it acknowledges these
	// commits but does not show them before the next commit (or for 15 s), because PostgreSQL took them for running when the
	// base backup began.
	doubtful []int
}

func newTestbed(seed uint64) *testbed {
	t := &testbed{recorder: newRecorder(), seed: seed}
	t.resting, t.halt = context.WithCancel(context.Background())
	return t
}

// setUp starts the cluster, the proxies and the tables.
func (t *testbed) setUp(ctx context.Context) (err error) {
	if t.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Replicas: replicas, Parameters: parameters}); err != nil {
		return err
	}
	t.nodes = t.cluster.Nodes()
	t.term.Store(&term{})
	for _, n := range t.nodes {
		p, err := pgproxy.Listen(n.Addr())
		if err != nil {
			return err
		}
		t.proxies = append(t.proxies, p)
	}
	if err := t.cluster.SetSynchronous(ctx, t.nodes[0], 1); err != nil {
		return err
	}
	conn, err := t.nodes[0].Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, fmt.Sprintf(schema, registers))
	return err
}

// openServices makes the PoolManagers and waits until each of them knows all nodes.
func (t *testbed) openServices(ctx context.Context) error {
	direct, proxied := make(map[string]int), make(map[string]int)
	var pairs []string
	for i, n := range t.nodes {
		direct[n.Addr()], proxied[t.proxies[i].Addr()] = i, i
		pairs = append(pairs, n.Addr(), t.proxies[i].Addr())
	}
	for _, setting := range settings {
		s := &service{setting: setting, testbed: t, nodeAt: direct}
		dsn := t.cluster.DSN()
		if s.proxied {
			s.nodeAt, dsn = proxied, strings.NewReplacer(pairs...).Replace(dsn)
		}
		if err := s.open(ctx, dsn); err != nil {
			return err
		}
		t.services = append(t.services, s)
		if err := s.pm.Ready(ctx, 1, replicas); err != nil {
			return err
		}
	}
	return nil
}

// start starts the clients.
func (t *testbed) start() {
	add := func(s *service, writes bool, number int) {
		rng := rand.New(rand.NewPCG(t.seed, uint64(len(t.clients))))
		t.clients = append(t.clients, &client{service: s, writes: writes, number: number, rng: rng})
	}
	for _, s := range t.services {
		for i := range writersEach {
			add(s, true, i)
		}
		for i := range readersEach {
			add(s, false, i)
		}
	}
	for _, c := range t.clients {
		t.working.Go(func() { c.work(t.resting) })
	}
}

// rest lets every client finish its operation and waits for all of them.
func (t *testbed) rest(ctx context.Context) error {
	t.halt()
	finished := make(chan struct{})
	go func() {
		t.working.Wait()
		close(finished)
	}()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("some clients do not finish:\n%s", stacks())
	}
}

// progress waits until each client has completed progressOps more operations, except those that but leaves out.
func (t *testbed) progress(ctx context.Context, but func(*client) bool) error {
	t.recorder.mu.Lock()
	goals := make(map[*client]int)
	for _, c := range t.clients {
		if !but(c) {
			goals[c] = t.recorder.done[c] + progressOps
		}
	}
	t.recorder.mu.Unlock()
	for {
		var late []string
		t.recorder.mu.Lock()
		for c, goal := range goals {
			if t.recorder.done[c] < goal {
				late = append(late, c.String())
			}
		}
		changed := t.recorder.changed
		t.recorder.mu.Unlock()
		if len(late) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("these clients make no progress: %s\n%s", strings.Join(late, ", "), stacks())
		}
	}
}

// Clients that progress leaves out.
func none(*client) bool      { return false }
func readers(c *client) bool { return !c.writes }

// expectErrors allows operations on nodes to fail.
func (t *testbed) expectErrors(nodes ...int) {
	for _, i := range nodes {
		t.recorder.expectErrors(t.nodes[i].Name())
	}
}

// others returns all nodes but one.
func (t *testbed) others(than int) (nodes []int) {
	for i := range t.nodes {
		if i != than {
			nodes = append(nodes, i)
		}
	}
	return nodes
}
