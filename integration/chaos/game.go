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

	// patience is how long one failover may take, with the return of the old master.
	patience = 2 * time.Minute
	// writing is how many more operations a client gets done before a fault, and after it.
	writing = 10
)

// parameters make servers look for an order to stop at more places than they do by default: wherever they log how long a
// statement took, which is after its commit.
var parameters = map[string]string{"log_duration": "on"}

// game is a cluster with services at work on it. Some reach the nodes directly, others through proxies, so that they may
// see different things at a time.
type game struct {
	cluster  *pgcluster.Cluster
	nodes    []*pgcluster.Node
	proxies  []*pgproxy.Proxy
	services []*service
	book     *book

	master   atomic.Pointer[reign]
	lastMark atomic.Int64

	seed    uint64 // of the clients' dice
	clients []*client
	working sync.WaitGroup
	resting context.Context // ended to let the clients finish
	halt    context.CancelFunc
}

// reign is the time of one master, from its promotion on.
type reign struct {
	node  int
	epoch int  // how many failovers so far may have lost acknowledged writes
	lossy bool // this one's may
	// doubtful are replicas whose position in the WAL may not tell what they show. One has diverged, which takes its time to
	// be known. Another one is rebuilt while commits wait for it: it acknowledges them, and does not show them before the
	// next one (or for 15 s), as PostgreSQL took them for running when the base backup began.
	doubtful []int
}

func newGame(seed uint64) *game {
	g := &game{book: newBook(), seed: seed}
	g.resting, g.halt = context.WithCancel(context.Background())
	return g
}

// setUp starts the cluster, the proxies and the tables.
func (g *game) setUp(ctx context.Context) (err error) {
	if g.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Replicas: replicas, Parameters: parameters}); err != nil {
		return err
	}
	g.nodes = g.cluster.Nodes()
	g.master.Store(&reign{})
	for _, n := range g.nodes {
		p, err := pgproxy.Listen(n.Addr())
		if err != nil {
			return err
		}
		g.proxies = append(g.proxies, p)
	}
	if err := g.cluster.SetSynchronous(ctx, g.nodes[0], 1); err != nil {
		return err
	}
	conn, err := g.nodes[0].Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, fmt.Sprintf(schema, registers))
	return err
}

// openServices makes the PoolManagers and waits until they know all nodes.
func (g *game) openServices(ctx context.Context) error {
	direct, proxied := make(map[string]int), make(map[string]int)
	var pairs []string
	for i, n := range g.nodes {
		direct[n.Addr()], proxied[g.proxies[i].Addr()] = i, i
		pairs = append(pairs, n.Addr(), g.proxies[i].Addr())
	}
	for _, setting := range settings {
		s := &service{setting: setting, game: g, nodeAt: direct}
		dsn := g.cluster.DSN()
		if s.proxied {
			s.nodeAt, dsn = proxied, strings.NewReplacer(pairs...).Replace(dsn)
		}
		if err := s.open(ctx, dsn); err != nil {
			return err
		}
		g.services = append(g.services, s)
		if err := s.pm.Ready(ctx, 1, replicas); err != nil {
			return err
		}
	}
	return nil
}

// start sets the clients to work.
func (g *game) start() {
	add := func(s *service, writes bool, number int) {
		dice := rand.New(rand.NewPCG(g.seed, uint64(len(g.clients))))
		g.clients = append(g.clients, &client{service: s, writes: writes, number: number, dice: dice})
	}
	for _, s := range g.services {
		for i := range writersEach {
			add(s, true, i)
		}
		for i := range readersEach {
			add(s, false, i)
		}
	}
	for _, c := range g.clients {
		g.working.Go(func() { c.work(g.resting) })
	}
}

// rest lets every client finish what it is at.
func (g *game) rest(ctx context.Context) error {
	g.halt()
	finished := make(chan struct{})
	go func() {
		g.working.Wait()
		close(finished)
	}()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("clients are stuck:\n%s", stacks())
	}
}

// progress waits until each of those clients has got writing more operations done: all but the ones that are left out.
func (g *game) progress(ctx context.Context, but func(*client) bool) error {
	g.book.mu.Lock()
	goals := make(map[*client]int)
	for _, c := range g.clients {
		if !but(c) {
			goals[c] = g.book.done[c] + writing
		}
	}
	g.book.mu.Unlock()
	for {
		var late []string
		g.book.mu.Lock()
		for c, goal := range goals {
			if g.book.done[c] < goal {
				late = append(late, c.String())
			}
		}
		news := g.book.news
		g.book.mu.Unlock()
		if len(late) == 0 {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("these get nothing done: %s\n%s", strings.Join(late, ", "), stacks())
		}
	}
}

// Those of whom progress is not asked.
func none(*client) bool      { return false }
func readers(c *client) bool { return !c.writes }

// touch says that operations on nodes may fail.
func (g *game) touch(nodes ...int) {
	for _, i := range nodes {
		g.book.touch(g.nodes[i].Name())
	}
}

// others returns all nodes but one.
func (g *game) others(than int) (nodes []int) {
	for i := range g.nodes {
		if i != than {
			nodes = append(nodes, i)
		}
	}
	return nodes
}
