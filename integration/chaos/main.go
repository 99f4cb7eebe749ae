// Command chaos breaks the master of a real PostgreSQL cluster again and again, in random ways, while services write and read
// through hasql. After each failover and at the end it checks the promises:
//
//   - No acknowledged write is lost, or acknowledged by a superseded master.
//   - No write takes effect twice, or takes effect though its error says that it did not.
//   - No acquire is routed to a node that is known not to fit.
//   - Every read sees the writes that it was promised to see.
//   - Nobody waits for ever, and nothing is leaked.
//
// The cluster has three nodes, with synchronous replication to any one of two replicas. The services differ in their DSN.
// Some reach the nodes through proxies, so a partition separates them from a master that others still reach. Their clients
// write in every way that a route and a connection have. What they are told of each write is compared with a history that
// the server keeps: see ledger.go. The failover manager's work is done by pgcluster.Elect and Node.TakeOver. In a few kinds
// of failover it promotes the wrong replica, or there is no synchronous replication. There, acknowledged writes may be lost
// until their service knows the new master; they are counted.
//
//	chaos -n 100                           # a hundred failovers
//	chaos -n 100 -seed 7                   # the same failovers as in the run that printed seed 7
//	chaos -n 10 -kinds freeze,partition    # some kinds only
//	chaos -n 10 -all                       # go on after a violation, and print all of them
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	n := flag.Int("n", 100, "number of failovers")
	seed := flag.Uint64("seed", rand.Uint64N(1e6), "seed of the random numbers; the same seed gives the same failovers")
	names := flag.String("kinds", "", "kinds to choose from, separated by commas (default all)")
	all := flag.Bool("all", false, "go on after a violation, and print all of them at the end")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: chaos [flags]")
		flag.PrintDefaults()
		for _, k := range kinds {
			fmt.Fprintf(flag.CommandLine.Output(), "kind %-16s %s\n", k.name, k.about)
		}
	}
	flag.Parse()
	among, err := kindsByName(*names)
	if err != nil || flag.NArg() > 0 || *n < 1 {
		fmt.Fprintln(os.Stderr, errors.Join(err, errors.New("see chaos -h")))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *seed, among, *n, *all); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run runs n failovers. Its error lists the violations and describes each node.
func run(ctx context.Context, out io.Writer, seed uint64, among []kind, n int, all bool) (err error) {
	rounds := drawRounds(rand.New(rand.NewPCG(seed, 0)), among, n)
	t := newTestbed(seed)
	defer func() { err = errors.Join(err, t.tearDown()) }()
	if err := t.setUp(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, PostgreSQL %s\n", seed, t.cluster.Version())
	before, err := t.count(ctx)
	if err != nil {
		return err
	}
	defer func() { // after the end of the services
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			_, err = t.settle(ctx, before)
		}
	}()
	defer func() { err = errors.Join(err, t.closeServices()) }()
	if err := t.openServices(ctx); err != nil {
		return err
	}
	began := time.Now()
	results, err := t.runAll(ctx, out, rounds, all)
	table(out, results)
	fmt.Fprintf(out, "%d failovers in %v, %s\n", len(results), time.Since(began).Round(time.Second), t.recorder.summary())
	return err
}

// runAll runs rounds until the first violation or, with all, until a round cannot be completed. At the end it compares all
// that clients did with the history on every node.
func (t *testbed) runAll(ctx context.Context, out io.Writer, rounds []round, all bool) (results []result, err error) {
	calm, err := t.count(ctx)
	if err != nil {
		return nil, err
	}
	t.start()
	if err := t.progress(ctx, none); err != nil {
		return nil, fmt.Errorf("before the first fault: %w", err)
	}
	for i, r := range rounds {
		where := fmt.Sprintf("failover %d, %v", i+1, r)
		t.recorder.beginRound(where)
		for _, s := range t.services {
			s.takeEvents() // of the last round
		}
		res, err := t.runRound(ctx, r)
		if err != nil {
			t.recorder.addViolation("%v", err)
		}
		if wrong := t.recorder.allViolations(); len(wrong) > 0 && (err != nil || !all) {
			return results, fmt.Errorf("%s\n%s", strings.Join(wrong, "\n"), t.describeAll())
		}
		results = append(results, res)
		fmt.Fprintln(out, res.line(i+1, len(rounds)))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the end of the run took more than %v", patience))
	defer cancel()
	if err := t.rest(ctx); err != nil {
		return results, err
	}
	if _, err := t.settle(ctx, t.atRest(calm)); err != nil {
		return results, err
	}
	for _, s := range t.services {
		for n := range s.pm.Snapshot().Nodes() {
			if n.InUse() != 0 {
				t.recorder.addViolation("the %s service counts %d connections to %s in use, but no client has one", s.name, n.InUse(), n.Name)
			}
		}
	}
	if err := t.inspect(ctx); err != nil {
		return results, err
	}
	if wrong := t.recorder.allViolations(); len(wrong) > 0 {
		return results, errors.New(strings.Join(wrong, "\n"))
	}
	return results, nil
}

// closeServices closes the services, even while clients are at work.
func (t *testbed) closeServices() (err error) {
	t.halt()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, s := range t.services {
		err = errors.Join(err, s.pm.Close(ctx))
	}
	t.working.Wait()
	return err
}

func (t *testbed) tearDown() (err error) {
	for _, p := range t.proxies {
		err = errors.Join(err, p.Close())
	}
	if t.cluster != nil {
		err = errors.Join(err, t.cluster.Close())
	}
	return err
}
