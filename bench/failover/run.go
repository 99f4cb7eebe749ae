package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
	"github.com/pghasql/hasql/internal/workload"
)

const (
	// The clients work for at least warmLeast before the fault. The runs of a series add between 0 and warmSpread, in even
	// steps. warmSpread is hasql's default check interval, so the faults happen at different times between two probes.
	warmLeast  = 500 * time.Millisecond
	warmSpread = time.Second

	patience   = time.Minute     // how long a run may take longer than its schedule
	closeLimit = 5 * time.Second // time limit for closing a subject
	leaveLimit = time.Second     // time limit for the end of its goroutines
)

// trial is a run in progress.
type trial struct {
	cluster     *pgcluster.Cluster
	nodes       []*pgcluster.Node
	proxies     []*pgproxy.Proxy // one per node if the fault is proxied
	subject     subject
	load        *load
	elected     []*pgcluster.Node // the replica to promote, then the others
	accepted    chan time.Time    // gets the time of the first write that the new master accepted
	probing     sync.WaitGroup
	stopProbing context.CancelFunc // nil before the election
	old, next   int                // masters; next is nobody until one is promoted
	zero        time.Time          // of the clock: the fault
	marks       []mark
}

// try makes the i-th run of a fault with a subject, on a cluster of its own.
func try(ctx context.Context, o *options, f fault, c contender, i int) (r result, rec record, err error) {
	plan := f.schedule(o.timing)
	limit := plan.end + patience
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the run did not end within %v", limit))
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

// build starts the cluster and the proxies, and makes the tables.
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
	conn, err := t.nodes[t.old].Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, schema); err != nil {
		return err
	}
	for _, n := range t.standbys() {
		if err := n.WaitStreaming(ctx, t.nodes[t.old]); err != nil {
			return err
		}
	}
	if o.sync {
		return t.replicateSynchronously(ctx)
	}
	return nil
}

// standbys returns all nodes but the first master.
func (t *trial) standbys() []*pgcluster.Node { return slices.Delete(t.cluster.Nodes(), t.old, t.old+1) }

// replicateSynchronously makes commits on the master wait for a replica. Commits on a promoted replica do not wait. With
// Patroni's synchronous_mode they would wait once a replica streams from it, which is after the end of this run.
func (t *trial) replicateSynchronously(ctx context.Context) error {
	if err := t.cluster.SetSynchronous(ctx, t.nodes[t.old], 1); err != nil {
		return err
	}
	for _, n := range t.standbys() {
		conn, err := n.Conn(ctx)
		if err != nil {
			return err
		}
		defer workload.CloseNow(conn)
		for _, sql := range []string{"alter system set synchronous_standby_names = ''", "select pg_reload_conf()"} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
	}
	return nil
}

// dsn returns the DSN of every node, or of its proxy.
func (t *trial) dsn(o *options) string {
	var pairs []string
	for i, proxy := range t.proxies {
		pairs = append(pairs, t.nodes[i].Addr(), proxy.Addr())
	}
	dsn := strings.NewReplacer(pairs...).Replace(t.cluster.DSN())
	return fmt.Sprintf("%s&pool_max_conns=%d", dsn, o.maxConns)
}

// play runs the clients and the steps of the plan.
func (t *trial) play(ctx context.Context, f fault, plan schedule, warm time.Duration, r *result) error {
	defer t.load.stop()
	t.load.start(ctx)
	if err := workload.Sleep(ctx, warm); err != nil {
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
		if err := workload.Sleep(ctx, s.at-time.Since(t.zero)); err != nil {
			return err
		}
		t.mark(s.mark, time.Now())
		if err := s.do(t, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.mark, err)
		}
	}
	if err := workload.Sleep(ctx, plan.end-time.Since(t.zero)); err != nil {
		return err
	}
	r.Goroutines.After = running()
	return nil
}

func (t *trial) mark(name string, at time.Time) {
	t.marks = append(t.marks, mark{name, millis(at.Sub(t.zero))})
}

// probePace is the time between two probes of the elected replica. It bounds the error of the figure "recovery".
const probePace = time.Millisecond

// elect chooses the replica to promote, the one that has received the most WAL, and starts its prober.
func (t *trial) elect(ctx context.Context) (err error) {
	if t.elected, err = pgcluster.Elect(ctx, t.standbys()...); err != nil {
		return err
	}
	ctx, t.stopProbing = context.WithCancel(ctx)
	t.accepted = make(chan time.Time, 1)
	prober := &workload.Prober{
		Connect: t.elected[0].Conn,
		Pace:    probePace,
		Accepted: func(sent, _ time.Time, _ uint32) {
			t.stopProbing() // only the first write matters
			t.accepted <- sent
		},
	}
	t.probing.Go(func() { prober.Run(ctx) })
	return nil
}

// promote promotes the elected replica and makes the other one follow it. The prober says when the new master accepts
// writes.
func (t *trial) promote(ctx context.Context) error {
	t.next = slices.Index(t.nodes, t.elected[0])
	if err := t.elected[0].TakeOver(ctx, t.elected[1:]...); err != nil {
		return err
	}
	select {
	case at := <-t.accepted:
		t.mark(acceptingMark, at)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// record collects the results of the run.
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
	var written []int64
	for _, o := range rec.ops {
		if o.write {
			written = append(written, o.id)
		}
	}
	missing, err := workload.Missing(ctx, conn, "ledger", written)
	rec.missing = make(map[int64]bool)
	for _, id := range missing {
		rec.missing[id] = true
	}
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

// dismantle closes the subject, the prober, the proxies and the cluster.
func (t *trial) dismantle() (err error) {
	err = t.closeSubject()
	if t.stopProbing != nil {
		t.stopProbing()
		t.probing.Wait()
	}
	for _, proxy := range t.proxies {
		err = errors.Join(err, proxy.Close())
	}
	if t.cluster != nil {
		err = errors.Join(err, t.cluster.Close())
	}
	return err
}
