// Package bench compares the cost of an acquire with that of a bare pgxpool.Pool, in one run, on real PostgreSQL.
package bench

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// cluster starts one master and one replica. The replica listens on every loopback address. The library takes each address
// for a node of its own, so there can be a hundred nodes on one machine.
func cluster(b *testing.B) *pgcluster.Cluster {
	b.Helper()
	c, err := pgcluster.Start(b.Context(), pgcluster.Options{
		Replicas:   1,
		Parameters: map[string]string{"listen_addresses": "0.0.0.0", "max_connections": "1000"},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	return c
}

// manager makes a PoolManager of the master and as many addresses of the replica as it takes to have that number of nodes.
func manager(b *testing.B, c *pgcluster.Cluster, nodes int, balancer string) *hasql.PoolManager {
	b.Helper()
	hosts := []string{c.Nodes()[0].Addr()}
	for i := range nodes - 1 {
		hosts = append(hosts, fmt.Sprintf("127.0.0.%d:%d", 1+i, c.Nodes()[1].Port()))
	}
	dsn := "postgres://postgres@" + strings.Join(hosts, ",") + "/postgres?sslmode=disable&pool_max_conns=4&hasql_balancer=" + balancer
	pm, err := hasql.New(b.Context(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := pm.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	if err := pm.Ready(b.Context(), 1, nodes-1); err != nil {
		b.Fatal(err)
	}
	return pm
}

type acquirer func(context.Context) (*pgxpool.Conn, error)

// BenchmarkAcquire is Acquire and Release of an idle connection.
func BenchmarkAcquire(b *testing.B) {
	c := cluster(b)
	for _, nodes := range []int{3, 100} {
		pool, pm := bare(b, c), manager(b, c, nodes, "least_loaded")
		for name, acquire := range map[string]acquirer{"master": pm.AcquireMaster, "replica": pm.AcquireReplica} {
			warm(b, acquire, nodes*20)
			b.Run(fmt.Sprintf("%s/%d", name, nodes), func(b *testing.B) {
				compare(b, once(b, pool.Acquire), once(b, acquire))
			})
		}
	}
}

func once(b *testing.B, acquire acquirer) func() {
	ctx := context.Background()
	return func() {
		conn, err := acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		conn.Release()
	}
}

// BenchmarkQueryRow is a whole round trip.
func BenchmarkQueryRow(b *testing.B) {
	c := cluster(b)
	pool, pm := bare(b, c), manager(b, c, 3, "least_loaded")
	query := func(db interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	},
	) func() {
		ctx := context.Background()
		return func() {
			var n int
			if err := db.QueryRow(ctx, "select 1").Scan(&n); err != nil {
				b.Fatal(err)
			}
		}
	}
	compare(b, query(pool), query(pm.Master()))
}

// bare makes the pgxpool that the library is compared with.
func bare(b *testing.B, c *pgcluster.Cluster) *pgxpool.Pool {
	b.Helper()
	pool, err := pgxpool.New(b.Context(), c.Nodes()[0].DSN()+"&pool_max_conns=4")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	warm(b, pool.Acquire, 1)
	return pool
}

// warm opens connections, so that none is opened during the measurement.
func warm(b *testing.B, acquire acquirer, rounds int) {
	b.Helper()
	for range rounds {
		var conns []*pgxpool.Conn
		for range 2 {
			conn, err := acquire(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			conn.Release()
		}
	}
}

// compare runs both in turn, in blocks so short that a drift of the machine affects both alike. It reports the median block of
// each, their difference and ratio, and the allocations of each.
func compare(b *testing.B, pgxpool, hasql func()) {
	compareBlocks(b, inTurn(pgxpool), inTurn(hasql))
}

// block is how many operations are timed at once. Every crowd's number of goroutines divides it.
const block = 512

func inTurn(f func()) func(n int) {
	return func(n int) {
		for range n {
			f()
		}
	}
}

// compareBlocks is compare for functions that do n operations.
func compareBlocks(b *testing.B, pgxpool, hasql func(n int)) {
	theirs, ours := new(series), new(series)
	for b.Loop() {
		theirs.add(pgxpool)
		ours.add(hasql)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(theirs.median(), "pgxpool-ns")
	b.ReportMetric(ours.median(), "hasql-ns")
	b.ReportMetric(ours.median()-theirs.median(), "more-ns")
	b.ReportMetric(ours.median()/theirs.median(), "ratio")
	b.ReportMetric(allocs(pgxpool), "pgxpool-allocs")
	b.ReportMetric(allocs(hasql), "hasql-allocs")
}

func allocs(f func(n int)) float64 {
	return math.Round(testing.AllocsPerRun(100, func() { f(block) }) / block)
}

// series are the times per operation of many blocks.
type series struct{ times []float64 }

func (s *series) add(f func(n int)) {
	start := time.Now()
	f(block)
	s.times = append(s.times, float64(time.Since(start).Nanoseconds())/float64(block))
}

func (s *series) median() float64 {
	slices.Sort(s.times)
	return s.times[len(s.times)/2]
}
