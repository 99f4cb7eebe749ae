// Package demo runs an application on a PostgreSQL cluster of its own, takes the master away from it, and counts what
// that cost.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// Options say how to run the demo.
type Options struct {
	Runs    int       // failovers, one after the other; at least 1
	Out     io.Writer // for the story and the table
	Color   bool      // colours in Out
	Verbose bool      // tell also what hasql notices, and each failed operation
}

const (
	replicas = 2

	calmTime   = 3 * time.Second        // before each failover
	settleTime = 2 * time.Second        // between one change of the cluster and the next
	noticeTime = 300 * time.Millisecond // how long a failover manager takes to find the master dead
	chooseTime = 100 * time.Millisecond // of it, for the choice of the next master
	againTime  = 15 * time.Second       // how long the application may take to write again before the demo goes on

	startLimit = 30 * time.Second // the demo's patience with PostgreSQL: for starting,
	runLimit   = 50 * time.Second // for one failover and the way back,
	closeLimit = 2 * time.Second  // and with the library's Close
)

// demo is one run of the program.
type demo struct {
	cluster *pgcluster.Cluster
	nodes   []*pgcluster.Node
	names   []string // of the nodes in the story
	load    *workload
	screen  *screen
	master  int // node
}

// Run runs the demo and returns what it found, promises kept or not. It blocks for some 10 s and 10 s more for each
// further failover. If it fails or ctx ends, there is no result. Either way nothing of the cluster is left behind.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	if o.Runs < 1 {
		return nil, fmt.Errorf("there must be at least 1 run, not %d", o.Runs)
	}
	limit := startLimit + time.Duration(o.Runs)*runLimit
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
	defer cancel()

	d := &demo{screen: &screen{out: o.Out, style: style{o.Color}, verbose: o.Verbose}}
	d.screen.line("Starting PostgreSQL: one master, two replicas …")
	if d.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Replicas: replicas}); err != nil {
		return nil, orCause(ctx, err)
	}
	defer func() { err = errors.Join(err, d.cluster.Close()) }()
	d.nodes = d.cluster.Nodes()
	for i := range d.nodes {
		d.names = append(d.names, fmt.Sprintf("pg%d", i+1))
	}
	if err := d.prepare(ctx); err != nil {
		return nil, orCause(ctx, err)
	}
	pm, err := newPoolManager(ctx, fmt.Sprintf("%s&pool_max_conns=%d", d.cluster.DSN(), writers), d.names, d.screen)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closePoolManager(ctx, pm)) }()
	if err := pm.Ready(ctx, 1, replicas); err != nil {
		return nil, orCause(ctx, err)
	}
	record, err := d.play(ctx, pm, o.Runs)
	if err != nil {
		return nil, orCause(ctx, err)
	}
	result = newResult(*record)
	d.screen.line("")
	if err := result.render(o.Out, d.screen.style); err != nil {
		return nil, err
	}
	if result.Kept {
		d.screen.line("\n" + d.screen.good("Every promise was kept."))
	}
	return result, nil
}

// prepare makes the tables and makes commits synchronous.
func (d *demo) prepare(ctx context.Context) error {
	conn, err := d.nodes[d.master].Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, schema); err != nil {
		return err
	}
	for _, n := range d.nodes {
		if n == d.nodes[d.master] {
			continue
		}
		if err := n.WaitStreaming(ctx, d.nodes[d.master]); err != nil {
			return err
		}
	}
	return d.cluster.SetSynchronous(ctx, d.nodes[d.master], 1)
}

// play runs the workload through all failovers and returns what was recorded.
func (d *demo) play(ctx context.Context, pm *hasql.PoolManager, runs int) (*record, error) {
	d.introduce()
	began := time.Now()
	d.screen.begin(began)
	d.load = &workload{pm: pm, began: began, nodeAt: make(map[int]int), screen: d.screen}
	for i, n := range d.nodes {
		d.load.nodeAt[n.Port()] = i
	}
	// Whatever happens, no client is left when the cluster is closed.
	ctx, cancel := context.WithCancel(ctx)
	defer d.load.clients.Wait()
	defer cancel()
	d.load.start(ctx, d.master)
	d.load.clients.Go(func() { d.load.report(ctx) })

	r := &record{version: d.cluster.Version(), nodes: d.names}
	for range runs {
		f, err := d.failover(ctx, pm)
		if err != nil {
			return nil, err
		}
		r.failovers = append(r.failovers, f)
	}
	d.load.finish()
	r.end = time.Since(began)
	var err error
	if r.ledger, err = d.ledger(ctx); err != nil {
		return nil, err
	}
	for _, writes := range d.load.writes {
		r.writes = append(r.writes, writes...)
	}
	r.reads = d.load.reads[:]
	return r, ctx.Err()
}

func (d *demo) introduce() {
	d.screen.line(fmt.Sprintf("PostgreSQL %s on this machine: %s. %d writers and %d readers use it through hasql at its defaults.",
		d.cluster.Version(), strings.Join(d.names, ", "), writers, readers))
	d.screen.line("Replication is synchronous: a write is acknowledged once a replica has it too, so none may be lost.")
	d.screen.line("")
	d.screen.line(d.screen.dim(header(d.names)))
}

// ledger returns the ids of all writes as the master has them.
func (d *demo) ledger(ctx context.Context) (map[int64]bool, error) {
	conn, err := d.nodes[d.master].Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, "select id from ledger")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ids := make(map[int64]bool)
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids[id] = true
	}
	return ids, rows.Err()
}

func closePoolManager(ctx context.Context, pm *hasql.PoolManager) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return pm.Close(ctx)
}

// orCause returns why ctx ended, if it did and err came of that; else err.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// brief is the gist of an error, short enough for a line of the story: what the library, the server or the kernel
// said, else its first line.
func brief(err error) string {
	const width = 80
	if cut, ok := errors.AsType[*hasql.NodeDownError](err); ok {
		return fmt.Sprintf("connection cut because %s is %s", cut.Node, cut.Status)
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Message
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	if runes := []rune(text); len(runes) > width {
		text = string(runes[:width-1]) + "…"
	}
	return text
}
