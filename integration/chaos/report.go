package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// line tells of one failover.
func (r result) line(number, of int) string {
	return fmt.Sprintf("%*d/%d  %-28s %s -> %s  outage %4d ms (proxied %4d ms)  reads %4d ms  failed %2d writes %2d reads  %.1f s",
		len(fmt.Sprint(of)), number, of, r.round, r.old, r.next,
		r.outage["direct"].Milliseconds(), r.outage["proxied"].Milliseconds(), r.readGap.Milliseconds(), r.writes, r.reads, r.took.Seconds())
}

// table sums up by kind.
func table(out io.Writer, results []result) {
	if len(results) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprintln(w, "kind\truns\toutage ms, median\tmost\tproxied, median\tmost\treads without answer ms, most\tfailed writes\treads\t")
	for _, k := range kinds {
		var direct, proxied, reads []int64
		runs, failedWrites, failedReads := 0, 0, 0
		for _, r := range results {
			if r.name != k.name {
				continue
			}
			runs++
			direct = append(direct, r.outage["direct"].Milliseconds())
			proxied = append(proxied, r.outage["proxied"].Milliseconds())
			reads = append(reads, r.readGap.Milliseconds())
			failedWrites, failedReads = failedWrites+r.writes, failedReads+r.reads
		}
		if runs > 0 {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", k.name, runs, median(direct), slices.Max(direct),
				median(proxied), slices.Max(proxied), slices.Max(reads), failedWrites, failedReads)
		}
	}
}

// median returns the upper of two.
func median(values []int64) int64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// logTail is how much of each server's log a report quotes.
const logTail = 15

// autopsy says what everything looks like.
func (g *game) autopsy() string {
	var b strings.Builder
	for _, s := range g.services {
		fmt.Fprintf(&b, "the %s service sees:\n", s.name)
		for _, line := range s.describe() {
			fmt.Fprintln(&b, "  ", line)
		}
		fmt.Fprintln(&b, "and was told in this round:")
		for _, event := range s.history() {
			fmt.Fprintln(&b, "  ", event)
		}
	}
	for _, n := range g.nodes {
		fmt.Fprintf(&b, "%s, %s, %s; its log ends:\n", n.Name(), n.Addr(), condition(n))
		content, _ := os.ReadFile(filepath.Join(g.cluster.Dir(), n.Name(), "log")) // without it there is less to see
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		for _, line := range lines[max(0, len(lines)-logTail):] {
			fmt.Fprintln(&b, "  ", line)
		}
	}
	return b.String()
}

// condition is what a node says of itself.
func condition(n *pgcluster.Node) string {
	if !n.Running() {
		return "not running"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := n.Conn(ctx)
	if err != nil {
		return "running, without answer"
	}
	defer conn.Close(ctx)
	var text string
	err = conn.QueryRow(ctx, `select case when pg_is_in_recovery()
		then 'standby, received ' || coalesce(pg_last_wal_receive_lsn()::text, 'nothing') || ', replayed ' || pg_last_wal_replay_lsn()
			|| coalesce((select ', streaming on timeline ' || received_tli from pg_stat_wal_receiver), ', not streaming')
		else 'master, ' || pg_walfile_name(pg_current_wal_lsn()) || ' ' || pg_current_wal_lsn()
			|| ', standbys: ' || coalesce((select string_agg(application_name || ' ' || state || ' ' || sync_state || ' ' || flush_lsn, ', ')
				from pg_stat_replication), 'none') end`).Scan(&text)
	if err != nil {
		return err.Error()
	}
	return text
}
