package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pghasql/hasql/cmd/hasql/internal/demo"
	"github.com/pghasql/hasql/internal/pgcluster"
)

const demoLong = `Starts a PostgreSQL cluster on this machine, one master and two replicas, lets writers and readers work on
it through hasql, kills the master, promotes a replica, brings the old master back, and says what the
application saw of it. Everything lives in a temporary folder and is gone at the end.

Exit status: 0 if every promise held, 1 if one was broken, 2 if the demo could not run.`

func newDemoCommand() *cobra.Command {
	var (
		options demo.Options
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch an application live through a failover",
		Long:  demoLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.Out = cmd.OutOrStdout()
			if asJSON {
				options.Out = cmd.ErrOrStderr()
			}
			options.Color = wantsColor(options.Out)
			return runDemo(cmd.Context(), options, asJSON, cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&options.Runs, "runs", 1, "`number` of failovers, one after the other")
	cmd.Flags().BoolVarP(&options.Verbose, "verbose", "v", false, "show what hasql notices and each failed operation")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result to stdout as JSON, and everything else to stderr")
	return cmd
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
	}
	if asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(result); err != nil {
			return &exitError{exitUnable, "demo: write the result: " + err.Error()}
		}
	}
	if !result.Kept {
		return &exitError{exitNo, "demo: broken: " + strings.Join(result.Broken(), "; ")}
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

// wantsColor reports whether w is a terminal whose user did not ask for plain text; see https://no-color.org.
func wantsColor(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
