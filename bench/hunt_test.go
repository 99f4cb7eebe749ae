package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// huntTime is how long a hunt is measured. It is shorter than the first phase of a hunt, that of RecoveryInterval.
const huntTime = 3 * time.Second

// BenchmarkHunt measures what clients that look for a lost master cost one replica: probes per second, and the share of a core
// that the server spends on them. The intervals are those of the three phases of a hunt.
func BenchmarkHunt(b *testing.B) {
	c := cluster(b)
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
		if err := pm.Ready(b.Context(), 1, 1); err != nil {
			b.Fatal(err)
		}
	}
	master := c.Nodes()[0]
	if err := master.Kill(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := master.Start(b.Context()); err != nil {
			b.Error(err)
		}
	}()
	for b.Loop() {
		before, asked, began := onCPU(b, c.Nodes()[1]), probes.Load(), time.Now()
		<-time.After(huntTime)
		took := time.Since(began).Seconds()
		b.ReportMetric(float64(probes.Load()-asked)/took, "probes/s")
		b.ReportMetric(100*(onCPU(b, c.Nodes()[1])-before).Seconds()/took, "%core")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkHuntForAServerThatStarts measures what the same clients cost a server that refuses every log-in, as during crash
// recovery: log-ins per second, and the share of a core that the server spends on refusing them instead of recovering.
func BenchmarkHuntForAServerThatStarts(b *testing.B) {
	for _, clients := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			c := cluster(b)
			var dials atomic.Int64
			for range clients {
				config, err := hasql.ParseConfig(c.DSN())
				if err != nil {
					b.Fatal(err)
				}
				dial := config.Nodes[1].Pool.ConnConfig.DialFunc
				config.Nodes[1].Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					dials.Add(1)
					return dial(ctx, network, addr)
				}
				pm, err := hasql.NewWithConfig(b.Context(), config)
				if err != nil {
					b.Fatal(err)
				}
				defer pm.Close(context.Background())
				if err := pm.Ready(b.Context(), 1, 1); err != nil {
					b.Fatal(err)
				}
			}
			postmaster := startForEver(b, c)
			for b.Loop() {
				before, dialled, began := ofChildren(b, postmaster), dials.Load(), time.Now()
				<-time.After(huntTime)
				took := time.Since(began).Seconds()
				b.ReportMetric(float64(dials.Load()-dialled)/took, "dials/s")
				b.ReportMetric(100*(ofChildren(b, postmaster)-before).Seconds()/took, "%core")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// startForEver kills the master and restarts the replica so that it answers every log-in with 57P03. It returns the folder
// of its main process under /proc.
func startForEver(b *testing.B, c *pgcluster.Cluster) (postmaster string) {
	b.Helper()
	master, replica := c.Nodes()[0], c.Nodes()[1]
	conn, err := replica.Conn(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := conn.Exec(b.Context(), "alter system set hot_standby = off"); err != nil {
		b.Fatal(err)
	}
	_ = conn.Close(b.Context())
	if err := errors.Join(master.Kill(), replica.Kill()); err != nil {
		b.Fatal(err)
	}
	ctx, giveUp := context.WithCancel(b.Context())
	started := make(chan struct{})
	go func() {
		defer close(started)
		_ = replica.Start(ctx) // never succeeds
	}()
	b.Cleanup(func() {
		giveUp()
		<-started
	})
	config, err := pgx.ParseConfig(replica.DSN())
	if err != nil {
		b.Fatal(err)
	}
	for {
		_, err := pgx.ConnectConfig(b.Context(), config)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "57P03" {
			break
		}
		if b.Context().Err() != nil {
			b.Fatal(err)
		}
	}
	lock, err := os.ReadFile(filepath.Join(c.Dir(), replica.Name(), "data", "postmaster.pid"))
	if err != nil {
		b.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(lock), "\n")
	return filepath.Join("/proc", pid)
}

// ofChildren is the processor time of a process and of those of its children that have ended.
func ofChildren(b *testing.B, process string) (total time.Duration) {
	b.Helper()
	stat, err := os.ReadFile(filepath.Join(process, "stat"))
	if err != nil {
		b.Skip("the kernel does not show how long processes run: ", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, ticks := range fields[11:15] { // utime, stime, cutime, cstime: see proc(5)
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += time.Duration(n) * 10 * time.Millisecond
	}
	return total
}

// counting is a Checker that counts the probes that were answered.
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
			b.Skip("the kernel does not show how long processes run: ", err)
		}
		nanoseconds, err := strconv.ParseInt(string(bytes.Fields(stat)[0]), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += time.Duration(nanoseconds)
	}
	return total
}
