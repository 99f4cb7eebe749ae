package compose

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
)

const (
	// writers is the number of writers of the application. So many writes may be in flight when a fault begins.
	writers = 8
	// writeLimit is the time limit of one write, in ms. In a longer outage each writer loses one more write.
	writeLimit = 10_000
)

// fault is a fault of a node's container, and its repair.
type fault struct {
	name           string
	inject, repair func(p *project, node string)
}

var (
	kill = fault{
		"kill",
		func(p *project, node string) { p.docker("kill", p.container(node)) },
		func(p *project, node string) { p.compose("up", "-d", node) },
	}
	cutOff = fault{
		"cut off",
		func(p *project, node string) { p.docker("network", "disconnect", p.network(), p.container(node)) },
		func(p *project, node string) {
			p.docker("network", "connect", "--alias", node, p.network(), p.container(node))
		},
	}
	pause = fault{
		"pause",
		func(p *project, node string) { p.docker("pause", p.container(node)) },
		func(p *project, node string) { p.docker("unpause", p.container(node)) },
	}
)

// faults returns the faults that the environment asks for.
func faults(t *testing.T) []fault {
	text := os.Getenv("HASQL_COMPOSE_RUNS")
	if text == "" {
		return []fault{kill, cutOff, pause}
	}
	runs, err := strconv.Atoi(text)
	if err != nil || runs < 1 {
		t.Fatalf("HASQL_COMPOSE_RUNS=%s is not a number of runs", text)
	}
	return slices.Repeat([]fault{kill}, runs)
}

func TestTheApplicationFollowsPatroni(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if deadline, ok := t.Deadline(); ok {
		// What is left is for removing everything.
		limited, cancel := context.WithDeadline(ctx, deadline.Add(-removalLimit))
		defer cancel()
		ctx = limited
	}
	p := start(ctx, t)
	var felt []outage
	for _, f := range faults(t) {
		felt = append(felt, p.breakLeader(f))
	}
	t.Logf("outages in ms:\n%s", table(felt))
}

// breakLeader breaks the leader, waits until the application writes on another node, repairs the fault, and waits until the
// cluster is healthy. It returns the outage as the application measured it.
func (p *project) breakLeader(f fault) outage {
	p.t.Helper()
	old := p.settle()
	before := p.state()
	p.t.Logf("%s %s", f.name, old)
	f.inject(p, old)
	var felt outage
	p.until("writes on another node than "+old, func(s state) bool {
		i := slices.IndexFunc(s.Outages, func(o outage) bool {
			return o.Ended > before.Now && o.From == address(old) && o.To != o.From && o.Cluster != nil
		})
		if i >= 0 {
			felt = s.Outages[i]
		}
		return i >= 0
	})
	felt.Fault = f.name
	f.repair(p, old)
	leader := p.settle()
	after := p.until(old+" being a replica, and writes on "+leader, func(s state) bool {
		return s.Writes.LastNode == address(leader) && slices.Contains(s.Nodes, node{address(old), "replica", "up"})
	})
	p.until("more writes", func(s state) bool { return s.Writes.Acknowledged > after.Writes.Acknowledged+100 })

	felt.Failed = after.Writes.Failed - before.Writes.Failed
	excused := 0
	for _, o := range after.Outages {
		if o.Ended > before.Now { // a busy machine may have had more than the one that we made
			excused += writers * (1 + int(o.Length/writeLimit))
		}
	}
	if felt.Failed > excused {
		p.t.Errorf("%s: %d writes failed, and at most %d were in flight", f.name, felt.Failed, excused)
	}
	if after.Writes.Lost > before.Writes.Lost || after.Writes.Stray > before.Writes.Stray {
		p.t.Errorf("%s: %d acknowledged writes were lost, %d acknowledged by a superseded leader", f.name,
			after.Writes.Lost-before.Writes.Lost, after.Writes.Stray-before.Writes.Stray)
	}
	if failed := after.Reads.Failed - before.Reads.Failed; failed > 0 {
		p.t.Errorf("%s: %d reads failed, though they go to replicas", f.name, failed)
	}
	return felt
}

// table shows outages and their medians.
func table(felt []outage) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "fault\tfrom\tto\tapplication\tPatroni\tmore\tafter the new leader accepted writes\tfailed writes\t")
	more := func(o outage) float64 { return o.Length - *o.Cluster }
	for _, o := range felt {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t\n",
			o.Fault, o.From, o.To, o.Length, *o.Cluster, more(o), *o.AfterAccept, o.Failed)
	}
	fmt.Fprintf(w, "median\t\t\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t\n",
		median(felt, func(o outage) float64 { return o.Length }), median(felt, func(o outage) float64 { return *o.Cluster }),
		median(felt, more), median(felt, func(o outage) float64 { return *o.AfterAccept }),
		median(felt, func(o outage) float64 { return float64(o.Failed) }))
	w.Flush()
	return out.String()
}

func median(felt []outage, of func(outage) float64) float64 {
	sorted := slices.SortedFunc(slices.Values(felt), func(a, b outage) int { return cmp.Compare(of(a), of(b)) })
	return (of(sorted[(len(sorted)-1)/2]) + of(sorted[len(sorted)/2])) / 2
}
