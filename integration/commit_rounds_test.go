package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// wire sees every connection of a manager: when a COMMIT is sent, and which of them were answered.
type wire struct {
	mu       sync.Mutex
	conns    map[string]*tapped // by local address
	answered map[int]bool       // orders whose COMMIT was
	commits  int                // still to be sent until the fault
	after    bool               // whether the fault comes behind the COMMIT instead of before it
	fault    func()
}

func (w *wire) tap(c *hasql.Config) {
	for _, n := range c.Nodes {
		dial := n.Pool.ConnConfig.DialFunc
		n.Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			tapped := &tapped{Conn: conn, wire: w}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.conns[conn.LocalAddr().String()] = tapped
			return tapped, nil
		}
	}
}

// cut ends every connection for the client; the server learns of it later.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.lost.Store(true)
	}
}

// tapped is one connection. A transaction has it for itself, so what is answered is its order.
type tapped struct {
	net.Conn
	wire  *wire
	order atomic.Int64
	lost  atomic.Bool
}

func (c *tapped) Write(b []byte) (int, error) {
	if c.lost.Load() {
		return 0, syscall.ECONNRESET
	}
	if !bytes.Contains(b, []byte("commit\x00")) {
		return c.Conn.Write(b)
	}
	c.wire.mu.Lock()
	c.wire.commits--
	var fault func()
	if c.wire.commits == 0 {
		fault = c.wire.fault
	}
	after := c.wire.after
	c.wire.mu.Unlock()
	if fault != nil && !after {
		fault()
	}
	n, err := c.Conn.Write(b)
	if fault != nil && after {
		fault()
	}
	return n, err
}

func (c *tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lost.Load() {
		return 0, syscall.ECONNRESET
	}
	if bytes.Contains(b[:n], []byte("COMMIT\x00")) {
		c.wire.mu.Lock()
		c.wire.answered[int(c.order.Load())] = true
		c.wire.mu.Unlock()
	}
	return n, err
}

// faults are what happens to a master in the middle of its commits. They return the master of then.
var faults = map[string]func(ctx context.Context, w *wire, a, b *pgcluster.Node) (*pgcluster.Node, error){
	"kill -9": func(ctx context.Context, _ *wire, a, b *pgcluster.Node) (*pgcluster.Node, error) {
		return b, errors.Join(a.Kill(), b.Promote(ctx))
	},
	"immediate stop": func(ctx context.Context, _ *wire, a, b *pgcluster.Node) (*pgcluster.Node, error) {
		return b, errors.Join(a.Stop(ctx, pgcluster.StopImmediate), b.Promote(ctx))
	},
	"switchover": func(ctx context.Context, _ *wire, a, b *pgcluster.Node) (*pgcluster.Node, error) {
		return b, errors.Join(a.Stop(ctx, pgcluster.StopFast), b.Promote(ctx))
	},
	"freeze": func(ctx context.Context, _ *wire, a, b *pgcluster.Node) (*pgcluster.Node, error) {
		return b, errors.Join(a.Freeze(), b.Promote(ctx))
	},
	"restart after kill -9": func(ctx context.Context, _ *wire, a, b *pgcluster.Node) (*pgcluster.Node, error) {
		return a, errors.Join(a.Kill(), a.Start(ctx))
	},
	"connections cut": func(_ context.Context, w *wire, a, _ *pgcluster.Node) (*pgcluster.Node, error) {
		w.cut()
		return a, nil
	},
}

// tally counts what became of transactions.
type tally struct{ applied, resolved, unknown, notApplied, lostByReplication int }

// TestEveryVerdictIsTrue breaks the master at random COMMITs under 12 clients, again and again, and compares each verdict with the table.
// HASQL_COMMIT_ROUNDS is how often (8), HASQL_COMMIT_SEED repeats a run.
func TestEveryVerdictIsTrue(t *testing.T) {
	rounds, seed := 8, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("HASQL_COMMIT_ROUNDS")); err == nil {
		rounds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("HASQL_COMMIT_SEED"), 10, 64); err == nil {
		seed = n
	}
	draw := rand.New(rand.NewPCG(seed, 0))
	totals := make(map[string]*tally)
	for done := 0; done < rounds; {
		n := min(12, rounds-done) // a cluster for so many rounds
		runRounds(t, draw, n, totals)
		if done += n; t.Failed() {
			t.Fatalf("seed %d, within the first %d rounds", seed, done)
		}
	}
	for what, c := range totals {
		t.Logf("%-60s applied %4d (%d found out), not applied %d, unknown %d, acknowledged and lost by asynchronous replication %d",
			what, c.applied, c.resolved, c.notApplied, c.unknown, c.lostByReplication)
	}
}

func runRounds(t *testing.T, draw *rand.Rand, rounds int, totals map[string]*tally) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	cluster := startCluster(t, pgcluster.Options{Replicas: 1})
	master, standby := cluster.Nodes()[0], cluster.Nodes()[1]
	shop(t, master)
	w := &wire{conns: make(map[string]*tapped), answered: make(map[int]bool)}
	m := open(t, cluster.DSN()+"&pool_max_conns=12", w.tap, quickly)
	must(t, m.Ready(ctx, 1, 1))
	next := 0
	for range rounds {
		fault := pick(draw, faults)
		way := pick(draw, waysToCommit)
		synchronous := draw.IntN(2) == 0
		what := fmt.Sprintf("%s, %s, synchronous %v", fault, way, synchronous)
		if synchronous {
			must(t, cluster.SetSynchronous(ctx, master, 1))
		}
		first := next
		next += 1000
		now, results := runRound(t, ctx, m, w, draw, fault, waysToCommit[way].options, cluster, master, standby, first)
		if totals[what] == nil {
			totals[what] = new(tally)
		}
		totals[what].compare(t, what, now, w, results, synchronous)
		if now != master {
			must(t, master.Rejoin(ctx, now))
			master, standby = now, master
		}
		must(t, m.Ready(ctx, 1, 1))
		must(t, standby.WaitStreaming(ctx, master))
	}
}

func pick[V any](draw *rand.Rand, of map[string]V) string {
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	// in an order of their own, for the sake of the seed
	for i := range names {
		for j := i; j > 0 && names[j] < names[j-1]; j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	return names[draw.IntN(len(names))]
}

// runRound has 12 clients order until the fault is over and each has ordered once more.
func runRound(t *testing.T, ctx context.Context, m *manager, w *wire, draw *rand.Rand, kind string, options hasql.TxOptions, cluster *pgcluster.Cluster, a, b *pgcluster.Node, first int) (now *pgcluster.Node, results map[int]error) {
	broken := make(chan error, 1)
	over := make(chan struct{})
	w.mu.Lock()
	w.commits, w.after = 1+draw.IntN(120), draw.IntN(2) == 0
	w.fault = func() {
		go func() {
			var err error
			now, err = faults[kind](ctx, w, a, b)
			broken <- err
		}()
	}
	w.mu.Unlock()
	results = make(map[int]error)
	var mu sync.Mutex
	var clients sync.WaitGroup
	var serial atomic.Int64
	for range 12 {
		clients.Go(func() {
			for last := false; !last; {
				select {
				case <-over:
					last = true
				default:
				}
				id := first + int(serial.Add(1))
				err := m.InTx(ctx, options, func(ctx context.Context, tx pgx.Tx) error {
					w.mu.Lock()
					if c := w.conns[tx.Conn().PgConn().Conn().LocalAddr().String()]; c != nil {
						c.order.Store(int64(id))
					}
					w.mu.Unlock()
					_, err := tx.Exec(ctx, "insert into orders values ($1, $2)", id, hasql.Attempt(ctx))
					return err
				})
				mu.Lock()
				results[id] = err
				mu.Unlock()
			}
		})
	}
	must(t, <-broken)
	must(t, cluster.SetSynchronous(ctx, now, 0)) // its standby is gone
	m.awaitMaster(now)
	close(over)
	clients.Wait()
	return now, results
}

// compare compares what clients were told with the table.
func (c *tally) compare(t *testing.T, what string, n server, w *wire, results map[int]error, synchronous bool) {
	t.Helper()
	rows, err := connect(t, n).Query(testContext(t), "select id from orders")
	must(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	must(t, err)
	count := make(map[int]int)
	for _, id := range ids {
		count[id]++
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, err := range results {
		found, answered := count[id], w.answered[id]
		switch verdict := hasql.Outcome(err); {
		case found > 1:
			t.Errorf("%s: order %d was done %d times: %v", what, id, found, err)
		case verdict == hasql.Applied && found == 0 && answered && !synchronous:
			c.lostByReplication++
		case verdict == hasql.Applied && found == 0:
			t.Errorf("%s: order %d was applied, so they said (COMMIT answered: %v)", what, id, answered)
		case verdict == hasql.Applied && !answered:
			c.applied, c.resolved = c.applied+1, c.resolved+1
		case verdict == hasql.Applied:
			c.applied++
		case verdict == hasql.Unknown:
			if c.unknown++; pgerrIs[*hasql.CommitUnknownError](err) {
				t.Logf("%s: %v", what, err)
			} else {
				t.Errorf("%s: %v", what, err)
			}
		case found == 1:
			t.Errorf("%s: order %d was not applied, so they said: %v", what, id, err)
		default:
			c.notApplied++
			t.Logf("%s: %v", what, err)
		}
	}
}
