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
	"github.com/pghasql/hasql/internal/workload"
)

// line returns one failover as a line of the report.
func (r result) line(number, of int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%*d/%d  %-25s %s -> %s  outage ms", len(fmt.Sprint(of)), number, of, r.round, r.old, r.next)
	for _, s := range settings {
		fmt.Fprintf(&b, " %s %-4d", s.name, r.outage[s.name].Milliseconds())
	}
	fmt.Fprintf(&b, " reads %-4d failed %2d writes (%d unknown, %d in effect) %d reads", r.readGap.Milliseconds(), r.writes, r.unknown, r.inEffect, r.reads)
	if r.asynchronous {
		fmt.Fprintf(&b, " lost %d", r.lost)
	}
	if r.missed > 0 {
		fmt.Fprintf(&b, " missed %d", r.missed)
	}
	fmt.Fprintf(&b, "  %.1f s", r.took.Seconds())
	return b.String()
}

// table writes the results by kind.
func table(out io.Writer, results []result) {
	if len(results) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprint(w, "kind\truns\toutage ms, median: ")
	for _, s := range settings {
		fmt.Fprintf(w, "%s\t", s.name)
	}
	fmt.Fprintln(w, "most\treads\tfailed writes\tunknown\tin effect\tlost\tfailed reads\tmissed\t")
	for _, k := range kinds {
		var of []result
		for _, r := range results {
			if r.name == k.name {
				of = append(of, r)
			}
		}
		if len(of) > 0 {
			row(w, k.name, of)
		}
	}
}

// row writes the results of one kind.
func row(w io.Writer, name string, of []result) {
	fmt.Fprintf(w, "%s\t%d\t", name, len(of))
	var most int64
	for _, s := range settings {
		var outages []int64
		for _, r := range of {
			outages = append(outages, r.outage[s.name].Milliseconds())
		}
		median, _, greatest := workload.Spread(outages)
		most = max(most, greatest)
		fmt.Fprintf(w, "%d\t", median)
	}
	var sum result
	for _, r := range of {
		sum.readGap = max(sum.readGap, r.readGap)
		sum.writes, sum.unknown, sum.inEffect = sum.writes+r.writes, sum.unknown+r.unknown, sum.inEffect+r.inEffect
		sum.lost, sum.reads, sum.missed = sum.lost+r.lost, sum.reads+r.reads, sum.missed+r.missed
	}
	fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n",
		most, sum.readGap.Milliseconds(), sum.writes, sum.unknown, sum.inEffect, sum.lost, sum.reads, sum.missed)
}

// logTail is how many lines of each server's log are printed.
const logTail = 15

// describeAll describes services and servers, for somebody who looks for the cause of a violation.
func (t *testbed) describeAll() string {
	var b strings.Builder
	for _, s := range t.services {
		fmt.Fprintf(&b, "the %s service knows:\n", s.name)
		for _, line := range s.describe() {
			fmt.Fprintln(&b, "  ", line)
		}
		fmt.Fprintln(&b, "its hooks reported in this round:")
		for _, event := range s.takeEvents() {
			fmt.Fprintln(&b, "  ", event)
		}
	}
	for _, n := range t.nodes {
		fmt.Fprintf(&b, "%s, %s, %s; its log ends:\n", n.Name(), n.Addr(), condition(n))
		content, _ := os.ReadFile(filepath.Join(t.cluster.Dir(), n.Name(), "log")) // without it there is less to see
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(content)), "\n"), func(line string) bool {
			return strings.Contains(line, " LOG:  duration: ")
		})
		for _, line := range lines[max(0, len(lines)-logTail):] {
			fmt.Fprintln(&b, "  ", line)
		}
	}
	return b.String()
}

// condition returns what a node reports about itself.
func condition(n *pgcluster.Node) string {
	if !n.Running() {
		return "not running"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := n.Conn(ctx)
	if err != nil {
		return "running, but it does not answer"
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
