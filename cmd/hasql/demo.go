package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pghasql/hasql/cmd/hasql/internal/demo"
	"github.com/pghasql/hasql/internal/pgcluster"
)

const demoLong = `Starts a PostgreSQL cluster on this machine: one master and two replicas. Writers and readers work on it through
hasql. The demo kills the master, freezes the next master, switches over, and repairs each time what it broke. At
the end it prints what the application saw. A page shows everything live. All files are in a temporary folder,
which is removed at the end.

With --hold the demo breaks nothing by itself: the page has buttons that break and repair the cluster, drain a
replica and pause writes, until Ctrl-C.

With --dsn the same application works on your cluster until Ctrl-C, and the demo breaks nothing. It makes the tables
hasql_demo_ledger and hasql_probe and replaces those of an earlier run, so run one demo at a time in a database.
It reports each outage twice: as the application saw it, and as direct connections to the cluster saw it. The reports
are in the log, on the page, and as JSON under /api/state.

Exit status: 0 if every promise was kept, 1 if one was broken, 2 if the demo could not run.`

// defaultListen is the address of the page. If the port is taken, the page gets one of the next ports.
const (
	defaultListen = "127.0.0.1:8080"
	portsToTry    = 20
)

func newDemoCommand() *cobra.Command {
	var (
		options demo.Options
		listen  string
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch an application live through failovers",
		Long:  demoLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.Out = cmd.OutOrStdout()
			if asJSON {
				options.Out = cmd.ErrOrStderr()
			}
			options.Color = wantsColor(options.Out)
			if err := options.Check(); err != nil {
				return &exitError{exitUnable, "demo: " + err.Error()}
			}
			if listen != "" {
				listener, err := listenOn(listen, !cmd.Flags().Changed("listen"))
				if err != nil {
					return &exitError{exitUnable, "demo: " + err.Error()}
				}
				options.Listen = listener
				fmt.Fprintf(options.Out, "http://%s shows it live.\n", listener.Addr())
			}
			return runDemo(cmd.Context(), options, asJSON, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.DSN, "dsn", "", "watch the cluster of this `DSN`, until interrupted")
	flags.BoolVar(&options.Hold, "hold", false, "leave the faults to the page's buttons, until interrupted")
	flags.StringVar(&listen, "listen", defaultListen, "`address` of the page, \"\" for no page; if the default port is taken, the next free one is used")
	flags.StringSliceVar(&options.Faults, "faults", demo.Faults, "faults of the master, in this `order`")
	flags.IntVar(&options.Runs, "runs", 1, "`number` of times to repeat the faults")
	flags.BoolVarP(&options.Verbose, "verbose", "v", false, "print what hasql notices and each failed operation")
	flags.BoolVar(&asJSON, "json", false, "write the result to stdout as JSON, and everything else to stderr")
	cmd.MarkFlagsMutuallyExclusive("dsn", "hold")
	return cmd
}

// listenOn listens on an address. If its port is taken and nextPort is true, it tries the ports after it.
func listenOn(address string, nextPort bool) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err == nil || !nextPort {
		return listener, err
	}
	host, port, _ := net.SplitHostPort(address)
	first, _ := strconv.Atoi(port)
	for i := 1; i < portsToTry && errors.Is(err, syscall.EADDRINUSE); i++ {
		if listener, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(first+i))); err == nil {
			return listener, nil
		}
	}
	return nil, err
}

func runDemo(ctx context.Context, options demo.Options, asJSON bool, stdout io.Writer) error {
	result, err := demo.Run(ctx, options)
	switch {
	case err != nil && ctx.Err() != nil:
		return &exitError{exitInterrupted, "demo: interrupted; the cluster is stopped and its files are removed"}
	case errors.Is(err, pgcluster.ErrNoPostgres):
		return &exitError{exitUnable, missingPostgres(err)}
	case err != nil:
		return &exitError{exitUnable, "demo: could not run: " + err.Error()}
	case result == nil:
		return nil // the demo ran until it was interrupted
	}
	if asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(result); err != nil {
			return &exitError{exitUnable, "demo: write the result: " + err.Error()}
		}
	}
	if !result.Kept {
		return &exitError{exitNo, "demo: broken promises: " + strings.Join(result.Broken(), "; ")}
	}
	return nil
}

func missingPostgres(err error) string {
	if dir := os.Getenv("PGBINDIR"); dir != "" {
		return fmt.Sprintf("demo: %v", err)
	}
	return `demo: PostgreSQL's server programs (13 or newer) are not on this machine. Install them,
  Debian, Ubuntu:  apt-get install postgresql
  Fedora, RHEL:    dnf install postgresql-server
  Alpine:          apk add postgresql postgresql-client
or set PGBINDIR to the folder that holds postgres, initdb, pg_basebackup, pg_rewind and pg_controldata.
No server needs to run: the demo starts its own.`
}

// wantsColor reports whether w is a terminal and the user did not turn colours off; see https://no-color.org.
func wantsColor(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
