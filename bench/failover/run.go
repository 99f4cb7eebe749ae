package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
)

const (
	// The clients work for so long before the fault. The spread is hasql's default check interval, over which the runs
	// of a series are laid out evenly: a fault knows nothing of the probes.
	warmLeast  = 500 * time.Millisecond
	warmSpread = time.Second

	patience   = time.Minute     // with one run, beyond its schedule
	closeLimit = 5 * time.Second // with the end of a subject
	leaveLimit = time.Second     // with the end of its goroutines
)

// trial is one run under way.
type trial struct {
	cluster   *pgcluster.Cluster
	nodes     []*pgcluster.Node
	proxies   []*pgproxy.Proxy  // one per node if the fault is proxied
	standbys  map[int]*pgx.Conn // opened before the fault, past the subject
	subject   subject
	load      *load
	old, next int       // masters; next is nobody until one is promoted
	zero      time.Time // of the clock: the fault
	marks     []mark
}

// try makes the i-th run of a fault with a subject, on a cluster of its own.
func try(ctx context.Context, o *options, f fault, c contender, i int) (r result, rec record, err error) {
	plan := f.schedule(o.timing)
	limit := plan.end + patience
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
	defer cancel()
	t := &trial{next: nobody}
	defer func() { err = errors.Join(err, t.dismantle()) }()
	if err := t.build(ctx, o, f); err != nil {
		return r, rec, err
	}
	r = result{Fault: f.name, Subject: c.name, Run: i + 1, postgres: t.cluster.Version()}
	warm := warmLeast + warmSpread*time.Duration(2*i+1)/time.Duration(2*o.runs)
	r.Warm = millis(warm)

	if t.subject, err = c.open(ctx, t.dsn(o)); err != nil {
		return r, rec, err
	}
	t.load = &load{loadOptions: o.load, subject: t.subject, nodeAt: make(map[int]int)}
	for k, n := range t.nodes {
		t.load.nodeAt[n.Port()] = k
	}
	if err := t.play(ctx, f, plan, warm, &r); err != nil {
		return r, rec, err
	}
	if rec, err = t.record(ctx, f, plan); err != nil {
		return r, rec, err
	}
	if err := t.closeSubject(); err != nil {
		return r, rec, err
	}
	r.Goroutines.Left = left()
	r.fill(rec)
	return r, rec, nil
}

// build starts the cluster, and whatever else is there before the subject.
func (t *trial) build(ctx context.Context, o *options, f fault) (err error) {
	if t.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Replicas: 2}); err != nil {
		return err
	}
	t.nodes = t.cluster.Nodes()
	if f.proxied {
		for _, n := range t.nodes {
			proxy, err := pgproxy.Listen(n.Addr())
			if err != nil {
				return err
			}
			t.proxies = append(t.proxies, proxy)
		}
	}
	if err := t.connectStandbys(ctx); err != nil {
		return err
	}
	conn, err := t.nodes[t.old].Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, schema); err != nil {
		return err
	}
	for i := range t.standbys {
		if err := t.nodes[i].WaitStreaming(ctx, t.nodes[t.old]); err != nil {
			return err
		}
	}
	if o.sync {
		return t.replicateSynchronously(ctx)
	}
	return nil
}

func (t *trial) connectStandbys(ctx context.Context) error {
	t.standbys = make(map[int]*pgx.Conn)
	for i, n := range t.nodes {
		if i == t.old {
			continue
		}
		conn, err := n.Conn(ctx)
		if err != nil {
			return err
		}
		t.standbys[i] = conn
	}
	return nil
}

// replicateSynchronously makes commits on the master wait for a replica. Those on a promoted one do not: as with
// Patroni's synchronous_mode, waiting would begin once a replica streams from it, which this run does not see.
func (t *trial) replicateSynchronously(ctx context.Context) error {
	if err := t.cluster.SetSynchronous(ctx, t.nodes[t.old], 1); err != nil {
		return err
	}
	for _, conn := range t.standbys {
		for _, sql := range []string{"alter system set synchronous_standby_names = ''", "select pg_reload_conf()"} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
	}
	return nil
}

// dsn names every node, or its proxy.
func (t *trial) dsn(o *options) string {
	var pairs []string
	for i, proxy := range t.proxies {
		pairs = append(pairs, t.nodes[i].Addr(), proxy.Addr())
	}
	dsn := strings.NewReplacer(pairs...).Replace(t.cluster.DSN())
	return fmt.Sprintf("%s&pool_max_conns=%d", dsn, o.maxConns)
}

// play lets the clients work and things happen.
func (t *trial) play(ctx context.Context, f fault, plan schedule, warm time.Duration, r *result) error {
	defer t.load.stop()
	t.load.start(ctx)
	if err := sleep(ctx, warm); err != nil {
		return err
	}
	r.Goroutines.Before = running()
	if f.idle {
		t.load.rest()
	}
	stalled := watchMachine()
	defer func() { r.Stall = millis(stalled()) }()
	t.zero = time.Now()
	for _, s := range plan.steps {
		if err := sleep(ctx, s.at-time.Since(t.zero)); err != nil {
			return err
		}
		t.mark(s.mark, time.Now())
		if err := s.do(t, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.mark, err)
		}
	}
	if err := sleep(ctx, plan.end-time.Since(t.zero)); err != nil {
		return err
	}
	r.Goroutines.After = running()
	return nil
}

func (t *trial) mark(name string, at time.Time) {
	t.marks = append(t.marks, mark{name, millis(at.Sub(t.zero))})
}

// promote does what a failover manager does: it promotes the replica that has received most and points the other one
// to it. The prober says when the new master accepts writes.
func (t *trial) promote(ctx context.Context) (err error) {
	if t.next, err = furthest(ctx, t.standbys); err != nil {
		return err
	}
	probing, stop := context.WithCancel(ctx)
	defer stop()
	found := make(chan acceptance, 1)
	go func() { found <- awaitWrites(probing, t.standbys[t.next]) }()
	err = t.nodes[t.next].Promote(ctx)
	for i := range t.standbys {
		if i != t.next && err == nil {
			err = t.nodes[i].Follow(ctx, t.nodes[t.next])
		}
	}
	if err != nil {
		stop()
	}
	accepted := <-found
	if err := errors.Join(err, accepted.err); err != nil {
		return err
	}
	t.mark(acceptingMark, accepted.at)
	return nil
}

// record collects what the run left behind.
func (t *trial) record(ctx context.Context, f fault, plan schedule) (rec record, err error) {
	rec = record{
		old: t.old, next: t.next, idle: f.idle,
		marks: t.marks, end: plan.end, ops: t.load.ops(t.zero),
	}
	for _, n := range t.nodes {
		rec.nodes = append(rec.nodes, n.Name())
	}
	last := t.nodes[t.old]
	if t.next != nobody {
		last = t.nodes[t.next]
	}
	conn, err := last.Conn(ctx)
	if err != nil {
		return rec, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rec.ledger, err = ledger(ctx, conn)
	return rec, err
}

func (t *trial) closeSubject() error {
	if t.subject == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	s := t.subject
	t.subject = nil
	return s.close(ctx)
}

// dismantle ends whatever is still there.
func (t *trial) dismantle() (err error) {
	err = t.closeSubject()
	for _, conn := range slices.Collect(maps.Values(t.standbys)) {
		conn.Close(context.Background())
	}
	for _, proxy := range t.proxies {
		err = errors.Join(err, proxy.Close())
	}
	if t.cluster != nil {
		err = errors.Join(err, t.cluster.Close())
	}
	return err
}
