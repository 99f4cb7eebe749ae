// Command failover measures what a service sees while the master of its PostgreSQL cluster fails over. It compares hasql at its
// defaults, hasql with short intervals, and pgxpool with pgx's own multi-host DSN.
//
//	cd bench && go run ./failover
//
// Each run has a cluster of its own on this machine: one master and two replicas. One writer and some readers work on it
// without pause. A fault happens at time 0. 300 ms later a replica is promoted, as a failover manager would do. A prober with
// its own connection finds out when the new master accepts writes. The command prints a table. It writes every run to a JSON
// file and, as an SVG timeline, to a folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once; the cluster cleans up after itself
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	runs     int
	faults   []fault
	subjects []contender
	timing   timing
	load     loadOptions
	maxConns int
	sync     bool
	markdown bool
	out      string
	given    map[string]string // the value of every flag, for the JSON
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseFlags(args, stderr)
	if err != nil {
		return err
	}
	if o.out == "" {
		o.out, err = os.MkdirTemp("", "hasql-failover-")
	} else {
		err = os.MkdirAll(o.out, 0o755)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%d runs take about %v; every run goes to %s\n", o.total(), o.estimate(), o.out)
	report := &report{Environment: newEnvironment(o)}
	err = measure(ctx, o, report, stderr)
	if ctx.Err() != nil {
		err = errors.New("interrupted; the clusters are removed, and the table has the runs until then")
	}
	if len(report.Runs) == 0 {
		return err
	}
	return errors.Join(report.table().render(stdout, o.markdown), report.save(o.out), err)
}

// measure makes all runs. The runs of one fault alternate between the subjects, so that a drift of the machine affects all
// subjects alike.
func measure(ctx context.Context, o *options, report *report, progress io.Writer) error {
	for _, f := range o.faults {
		for i := range o.runs {
			for _, s := range o.subjects {
				began := time.Now()
				r, rec, err := try(ctx, o, f, s, i)
				if err != nil {
					return fmt.Errorf("%s, %s, run %d: %w", f.name, s.name, i+1, err)
				}
				report.Environment.PostgreSQL = r.postgres
				report.Runs = append(report.Runs, r)
				if err := writeSVG(o.out, r, rec); err != nil {
					return err
				}
				fmt.Fprintf(progress, "%*d/%d  %s  (%.1f s)\n", len(fmt.Sprint(o.total())), len(report.Runs), o.total(), r,
					time.Since(began).Seconds())
			}
		}
	}
	return nil
}

func (o *options) total() int { return o.runs * len(o.faults) * len(o.subjects) }

// estimate is how long all runs will take.
func (o *options) estimate() time.Duration {
	const around = 400 * time.Millisecond // starting and ending a cluster
	var sum time.Duration
	for _, f := range o.faults {
		sum += around + warmLeast + warmSpread/2 + f.schedule(o.timing).end
	}
	return (sum * time.Duration(o.runs*len(o.subjects))).Round(time.Second)
}

func parseFlags(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	flags := flag.NewFlagSet("failover", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { usage(flags) }
	faultNames := flags.String("faults", "", "faults, separated by commas (default all)")
	subjectNames := flags.String("subjects", "", "subjects, separated by commas (default all)")
	flags.IntVar(&o.runs, "n", 10, "`runs` of each fault with each subject")
	flags.BoolVar(&o.sync, "sync", false, "replicate synchronously: a commit waits for any one replica")
	flags.IntVar(&o.load.readers, "readers", 2, "number of readers; there is one writer")
	flags.DurationVar(&o.load.pause, "pause", time.Millisecond, "time between two operations of a client")
	flags.DurationVar(&o.load.limit, "limit", 2*time.Second, "time limit of one operation")
	flags.IntVar(&o.maxConns, "max-conns", 4, "pool_max_conns")
	flags.DurationVar(&o.timing.promote, "promote", 300*time.Millisecond, "time from the fault to the promotion")
	flags.DurationVar(&o.timing.heal, "heal", 5*time.Second, "time from the fault to the thaw or to the end of a partition")
	flags.DurationVar(&o.timing.stray, "stray", 5*time.Second, "how long to look for stray writes after that")
	flags.DurationVar(&o.timing.calm, "calm", 1500*time.Millisecond, "how long to go on after the last event of a run")
	flags.BoolVar(&o.markdown, "markdown", false, "print the table in Markdown")
	flags.StringVar(&o.out, "out", "", "`folder` for JSON and SVG (default a temporary one)")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if o.runs < 1 || o.load.readers < 0 || o.maxConns < 1 {
		return nil, errors.New("-n and -max-conns must be at least 1, -readers at least 0")
	}
	o.given = make(map[string]string)
	flags.VisitAll(func(f *flag.Flag) { o.given[f.Name] = f.Value.String() })
	var err, more error
	o.faults, err = choose(faults, *faultNames, func(f fault) string { return f.name })
	o.subjects, more = choose(contenders, *subjectNames, func(c contender) string { return c.name })
	return o, errors.Join(err, more)
}

// choose returns those of all that are named, in the order of all.
func choose[T any](all []T, names string, name func(T) string) (chosen []T, err error) {
	if names == "" {
		return all, nil
	}
	wanted := make(map[string]bool)
	for n := range strings.SplitSeq(names, ",") {
		wanted[strings.TrimSpace(n)] = true
	}
	var known []string
	for _, one := range all {
		known = append(known, name(one))
		if wanted[name(one)] {
			chosen = append(chosen, one)
			delete(wanted, name(one))
		}
	}
	for n := range wanted {
		err = errors.Join(err, fmt.Errorf("%q is none of: %s", n, strings.Join(known, ", ")))
	}
	return chosen, err
}

func usage(flags *flag.FlagSet) {
	w := flags.Output()
	fmt.Fprintln(w, "Measures what a service sees while its PostgreSQL cluster fails over.\n\nFlags:")
	flags.PrintDefaults()
	fmt.Fprintln(w, "\nFaults:")
	for _, f := range faults {
		fmt.Fprintf(w, "  %-15s %s\n", f.name, f.about)
	}
	fmt.Fprintln(w, "\nSubjects:")
	for _, c := range contenders {
		fmt.Fprintf(w, "  %-15s %s\n", c.name, c.about)
	}
}
