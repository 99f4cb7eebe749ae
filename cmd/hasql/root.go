package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses besides 0.
const (
	exitNo          = 1   // the command ran, and the answer is no
	exitUnable      = 2   // the command could not run
	exitInterrupted = 130 // as a shell shows Ctrl-C
)

// exitError is an error of a subcommand with the exit status it makes. Its text may be empty if all has been said.
type exitError struct {
	status int
	text   string
}

func (e *exitError) Error() string { return e.text }

// run runs one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	status := exitUnable
	exit, said := errors.AsType[*exitError](err)
	if said {
		status = exit.status
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(stderr, "hasql:", text)
	}
	return status
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "hasql",
		Short:         "Highly available PostgreSQL, from the client's side",
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newDemoCommand())
	return root
}
