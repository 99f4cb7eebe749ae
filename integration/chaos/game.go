package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pghasql/hasql"
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

// game is a cluster with two services at work on it: one reaches the nodes directly, the other through proxies, so that
// they may see different things at a time.
type game struct {
	cluster  *pgcluster.Cluster
	nodes    []*pgcluster.Node
	proxies  []*pgproxy.Proxy
	services []*service
	book     *book

	master atomic.Pointer[reign]
	struck *pgcluster.Node // the old master of this round
	lastID atomic.Int64

	clients []*client
	working sync.WaitGroup
	resting context.Context // ended to let the clients finish
	halt    context.CancelFunc
}

// reign is the time of one master, from the end of its promotion.
type reign struct{ node int }

// result is one failover as it went.
type result struct {
	round
	old, next     string
	outage        map[string]time.Duration // of writes, by service
	readGap       time.Duration
	writes, reads int // failed
	took          time.Duration
}

// setUp starts the cluster, the proxies and the table.
func (g *game) setUp(ctx context.Context) (err error) {
	if g.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Replicas: replicas}); err != nil {
		return err
	}
	g.nodes = g.cluster.Nodes()
	g.master.Store(&reign{0})
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
	_, err = conn.Exec(ctx, schema)
	return err
}

// openServices makes the two PoolManagers and waits until they know all nodes. The pools of one have room for every
// client, those of the other don't.
func (g *game) openServices(ctx context.Context) error {
	direct, proxied := make(map[string]int), make(map[string]int)
	var pairs []string
	for i, n := range g.nodes {
		direct[n.Addr()], proxied[g.proxies[i].Addr()] = i, i
		pairs = append(pairs, n.Addr(), g.proxies[i].Addr())
	}
	dsn := g.cluster.DSN()
	for _, s := range []*service{
		{name: "direct", nodeAt: direct, dsn: dsn, maxConns: maxConns},
		{name: "proxied", nodeAt: proxied, dsn: strings.NewReplacer(pairs...).Replace(dsn), maxConns: writersEach - 1},
	} {
		s.game = g
		if err := s.open(ctx); err != nil {
			return err
		}
		g.services = append(g.services, s)
		if err := s.pm.Ready(ctx, 1, replicas); err != nil {
			return err
		}
	}
	return nil
}

func newGame() *game {
	g := &game{book: newBook()}
	g.resting, g.halt = context.WithCancel(context.Background())
	return g
}

// start sets the clients to work.
func (g *game) start() {
	for _, s := range g.services {
		for i := range writersEach {
			g.clients = append(g.clients, &client{service: s, writes: true, number: i})
		}
		for i := range readersEach {
			g.clients = append(g.clients, &client{service: s, number: i})
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

// progress waits until each of some clients has got writing more operations done.
func (g *game) progress(ctx context.Context, clients []*client) error {
	g.book.mu.Lock()
	goals := make(map[*client]int)
	for _, c := range clients {
		goals[c] = g.book.done[c] + writing
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

// writers returns the clients that write.
func (g *game) writers() (list []*client) {
	for _, c := range g.clients {
		if c.writes {
			list = append(list, c)
		}
	}
	return list
}

// touch says that operations on a node may fail.
func (g *game) touch(node int) { g.book.touch(g.nodes[node].Name()) }

// others returns all nodes but one.
func (g *game) others(than int) (nodes []int) {
	for i := range g.nodes {
		if i != than {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// play is one failover, from a whole cluster to a whole cluster.
func (g *game) play(ctx context.Context, r round) (result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took more than %v", patience))
	defer cancel()
	began := time.Now()
	old := g.master.Load().node
	g.struck = g.nodes[old]
	res := result{round: r, old: g.struck.Name(), outage: make(map[string]time.Duration)}
	if err := g.progress(ctx, g.clients); err != nil {
		return res, fmt.Errorf("before the fault: %w", err)
	}
	g.book.heal() // whoever began before the end of the last round has finished
	g.touch(old)
	next, err := g.failOver(ctx, r, old)
	if err != nil {
		return res, err
	}
	res.next = g.nodes[next].Name()
	if err := g.bringBack(ctx, r, old, next); err != nil {
		return res, err
	}
	if err := g.audit(ctx); err != nil {
		return res, fmt.Errorf("the audit: %w", err)
	}
	g.book.mu.Lock()
	defer g.book.mu.Unlock()
	for _, s := range g.services {
		res.outage[s.name] = longestGap(g.book.ops, s.name, true)
		res.readGap = max(res.readGap, longestGap(g.book.ops, s.name, false))
	}
	res.writes, res.reads = failures(g.book.ops, true), failures(g.book.ops, false)
	res.took = time.Since(began)
	return res, nil
}

// failOver breaks the old master and does what a failover manager does.
func (g *game) failOver(ctx context.Context, r round, old int) (next int, err error) {
	if err := r.strike(g, ctx); err != nil {
		return 0, fmt.Errorf("the fault: %w", err)
	}
	if r.noticed {
		err := g.services[1].await(ctx, "the fault to be noticed", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
		if err != nil {
			return 0, err
		}
	}
	next, err = g.elect(ctx, old)
	if err != nil {
		return 0, fmt.Errorf("the promotion: %w", err)
	}
	if err := g.progress(ctx, g.clients); err != nil {
		return next, fmt.Errorf("after the promotion: %w", err)
	}
	return next, nil
}

// elect takes the standbys from the old master, so that it can acknowledge nothing any more, promotes the one that has
// most, and points the other one to it.
func (g *game) elect(ctx context.Context, old int) (next int, err error) {
	var most uint64
	for _, i := range g.others(old) {
		received, err := g.nodes[i].Detach(ctx)
		if err != nil {
			return 0, err
		}
		if received > most {
			next, most = i, received
		}
	}
	if err := g.nodes[next].Promote(ctx); err != nil {
		return 0, err
	}
	g.master.Store(&reign{next})
	for _, i := range g.others(old) {
		if i != next {
			err = errors.Join(err, g.nodes[i].Follow(ctx, g.nodes[next]))
		}
	}
	return next, err
}

// bringBack ends the fault, sees that the old master is fenced if it lives on, and makes it a replica.
func (g *game) bringBack(ctx context.Context, r round, old, next int) error {
	if r.undo != nil {
		if err := r.undo(g); err != nil {
			return fmt.Errorf("the end of the fault: %w", err)
		}
	}
	if r.lives {
		for _, s := range g.services {
			err := s.await(ctx, "the old master to be fenced", func(shot *hasql.Snapshot) bool {
				return s.state(shot, old).Status == hasql.StatusStale
			})
			if err != nil {
				return err
			}
		}
		if err := g.progress(ctx, g.clients); err != nil {
			return fmt.Errorf("beside the stale master: %w", err)
		}
	}
	rejoin := g.nodes[old].Rejoin
	if r.rebuild {
		rejoin = g.nodes[old].Rebuild
	}
	if err := rejoin(ctx, g.nodes[next]); err != nil {
		return fmt.Errorf("the old master's return: %w", err)
	}
	for _, s := range g.services {
		if err := s.pm.Ready(ctx, 1, replicas); err != nil {
			return fmt.Errorf("the %s service, after the return: %w", s.name, err)
		}
	}
	return nil
}

// audit checks that the master has every acknowledged write that was not checked yet.
func (g *game) audit(ctx context.Context) error {
	g.book.mu.Lock()
	ids := g.book.acked[g.book.checked:]
	g.book.checked = len(g.book.acked)
	g.book.mu.Unlock()
	return g.contained(ctx, g.nodes[g.master.Load().node], ids)
}

// contained checks that a node has these writes.
func (g *game) contained(ctx context.Context, n *pgcluster.Node, ids []int64) error {
	conn, err := n.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	lost := 0
	err = conn.QueryRow(ctx, `select count(*) from unnest($1::bigint[]) as acked (id)
		where not exists (select from ledger l where l.id = acked.id)`, ids).Scan(&lost)
	if err == nil && lost > 0 {
		g.book.accuse("%d of %d acknowledged writes are not on %s", lost, len(ids), n.Name())
	}
	return err
}
