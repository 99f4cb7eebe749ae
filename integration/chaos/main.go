// Command chaos breaks the master of a real PostgreSQL cluster again and again, in ways that dice choose, while services
// write and read through hasql, and checks after each failover and at the end that the promises hold: no acknowledged write
// lost, none that was said to be undone in effect, none in effect twice, none acknowledged by a superseded master, no
// acquire led to a node that was known not to fit, no promised write unseen, nothing stuck, nothing leaked.
//
// The cluster is three nodes with synchronous replication to any one of two replicas. The services differ in what their
// DSN says; some reach the nodes through proxies, so that a partition separates them from a master that others still see.
// Their clients write through routes and over connections of their own, in every way that these have. What they are told
// of each write is compared with a history that the server keeps: see ledger.go. The part of the failover manager is
// played in the right order: take the replicas from the old master, promote the one that has most, point the other one to
// it. A few kinds of failover break that rule, or do without synchronous replication: there acknowledged writes may be lost
// as long as their service does not know the new master, and are counted.
//
//	chaos -n 100                           # a hundred failovers
//	chaos -n 100 -seed 7                   # the same ones as in the run that printed seed 7
//	chaos -n 10 -kinds freeze,partition    # some kinds only
//	chaos -n 10 -all                       # all that is wrong in ten failovers, not in the first that goes wrong
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
	seed := flag.Uint64("seed", rand.Uint64N(1e6), "what the dice begin with; the same seed deals the same failovers")
	names := flag.String("kinds", "", "kinds to choose from, with commas between (default all)")
	all := flag.Bool("all", false, "go on after what must not be, and tell all of it in the end")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: chaos [flags]")
		flag.PrintDefaults()
		for _, k := range kinds {
			fmt.Fprintf(flag.CommandLine.Output(), "kind %-16s %s\n", k.name, k.about)
		}
	}
	flag.Parse()
	among, err := chosen(*names)
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

// run plays n failovers and returns what was wrong, with what each node looked like.
func run(ctx context.Context, out io.Writer, seed uint64, among []kind, n int, all bool) (err error) {
	rounds := deal(rand.New(rand.NewPCG(seed, 0)), among, n)
	g := newGame(seed)
	defer func() { err = errors.Join(err, g.tearDown()) }()
	if err := g.setUp(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, PostgreSQL %s\n", seed, g.cluster.Version())
	before, err := g.count(ctx)
	if err != nil {
		return err
	}
	defer func() { // after the services' end, whatever came before
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			_, err = g.settle(ctx, before)
		}
	}()
	defer func() { err = errors.Join(err, g.closeServices()) }()
	if err := g.openServices(ctx); err != nil {
		return err
	}
	began := time.Now()
	results, err := g.playAll(ctx, out, rounds, all)
	table(out, results)
	fmt.Fprintf(out, "%d failovers in %v, %s\n", len(results), time.Since(began).Round(time.Second), g.book.sum())
	return err
}

// playAll plays rounds until one goes wrong or, if all are asked for, cannot be played to its end. In the end it compares all
// that clients did with the history on every node.
func (g *game) playAll(ctx context.Context, out io.Writer, rounds []round, all bool) (results []result, err error) {
	calm, err := g.count(ctx)
	if err != nil {
		return nil, err
	}
	g.start()
	if err := g.progress(ctx, none); err != nil {
		return nil, fmt.Errorf("before the first fault: %w", err)
	}
	for i, r := range rounds {
		where := fmt.Sprintf("failover %d, %v", i+1, r)
		g.book.turn(where)
		for _, s := range g.services {
			s.told() // of the last round
		}
		res, err := g.play(ctx, r)
		if err != nil {
			g.book.accuse("%v", err)
		}
		if wrong := g.book.accusations(); len(wrong) > 0 && (err != nil || !all) {
			return results, fmt.Errorf("%s\n%s", strings.Join(wrong, "\n"), g.autopsy())
		}
		results = append(results, res)
		fmt.Fprintln(out, res.line(i+1, len(rounds)))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the end took more than %v", patience))
	defer cancel()
	if err := g.rest(ctx); err != nil {
		return results, err
	}
	if _, err := g.settle(ctx, g.atRest(calm)); err != nil {
		return results, err
	}
	for _, s := range g.services {
		for n := range s.pm.Snapshot().Nodes() {
			if n.InUse() != 0 {
				g.book.accuse("the %s service has %d connections to %s in use, and nobody has them", s.name, n.InUse(), n.Name)
			}
		}
	}
	if err := g.inspect(ctx); err != nil {
		return results, err
	}
	if wrong := g.book.accusations(); len(wrong) > 0 {
		return results, errors.New(strings.Join(wrong, "\n"))
	}
	return results, nil
}

// closeServices ends the services, also where clients are at work.
func (g *game) closeServices() (err error) {
	g.halt()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, s := range g.services {
		err = errors.Join(err, s.pm.Close(ctx))
	}
	g.working.Wait()
	return err
}

func (g *game) tearDown() (err error) {
	for _, p := range g.proxies {
		err = errors.Join(err, p.Close())
	}
	if g.cluster != nil {
		err = errors.Join(err, g.cluster.Close())
	}
	return err
}
