package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// huntTime is how long a hunt is watched: shorter than its first phase, which is that of RecoveryInterval.
const huntTime = 3 * time.Second

// BenchmarkHunt is what clients that look for a master ask of one replica: probes per second, and the share of a core
// that the server spends on them. The intervals are those of the three phases of a hunt.
func BenchmarkHunt(b *testing.B) {
	c := cluster(b)
	if err := c.Nodes()[0].Kill(); err != nil {
		b.Fatal(err)
	}
	for _, interval := range []time.Duration{10, 50, 250} {
		for _, clients := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("interval=%dms/clients=%d", interval, clients), func(b *testing.B) {
				hunt(b, c, interval*time.Millisecond, clients)
			})
		}
	}
}

func hunt(b *testing.B, c *pgcluster.Cluster, interval time.Duration, clients int) {
	var probes atomic.Int64
	config, err := hasql.ParseConfig(c.DSN())
	if err != nil {
		b.Fatal(err)
	}
	config.RecoveryInterval, config.Checker = interval, counting{&hasql.StandardChecker{}, &probes}
	for range clients {
		pm, err := hasql.NewWithConfig(b.Context(), config)
		if err != nil {
			b.Fatal(err)
		}
		defer pm.Close(context.Background())
		if err := pm.Ready(b.Context(), 0, 1); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		before, asked, began := onCPU(b, c.Nodes()[1]), probes.Load(), time.Now()
		<-time.After(huntTime)
		took := time.Since(began).Seconds()
		b.ReportMetric(float64(probes.Load()-asked)/took, "probes/s")
		b.ReportMetric(100*(onCPU(b, c.Nodes()[1])-before).Seconds()/took, "%core")
	}
	b.ReportMetric(0, "ns/op")
}

// counting is a Checker that counts the questions that were answered.
type counting struct {
	hasql.Checker
	probes *atomic.Int64
}

func (c counting) Check(ctx context.Context, conn *pgx.Conn) (hasql.Report, error) {
	report, err := c.Checker.Check(ctx, conn)
	if err == nil {
		c.probes.Add(1)
	}
	return report, err
}

// onCPU is the time that the server's sessions have spent on a processor.
func onCPU(b *testing.B, n *pgcluster.Node) (total time.Duration) {
	b.Helper()
	conn, err := n.Conn(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, _ := conn.Query(b.Context(), "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()")
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		b.Fatal(err)
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			b.Skip("the kernel does not tell how long processes run: ", err)
		}
		nanoseconds, err := strconv.ParseInt(string(bytes.Fields(stat)[0]), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += time.Duration(nanoseconds)
	}
	return total
}
