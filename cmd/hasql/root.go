package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses besides 0.
const (
	exitNo          = 1   // the command ran, and the answer is no
	exitUnable      = 2   // the command could not run
	exitTimedOut    = 3   // no node that fits was there in time
	exitInterrupted = 130 // as a shell shows Ctrl-C
)

const exitHelp = `Exit status: 0 if all went well; 1 if the answer is no (no master, a statement failed, a promise broken);
2 if the command could not run (wrong use, a DSN that makes no sense); 3 if no node that fits was there in
time; 130 after Ctrl-C.`

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
	status, text := exitUnable, err.Error()
	if exit, ok := errors.AsType[*exitError](err); ok {
		status = exit.status
	} else if holdsDSN(text) {
		text = "wrong use, on which there is more in --help; the words are not repeated here, as a DSN is among them"
	}
	if text != "" {
		fmt.Fprintln(stderr, "hasql:", text)
	}
	return status
}

// holdsDSN reports whether the words of a usage error repeat something that may hold a password.
func holdsDSN(text string) bool {
	return strings.Contains(text, "://") || strings.Contains(strings.ToLower(text), "password")
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "hasql",
		Short:         "Highly available PostgreSQL, from the client's side",
		Long:          "Highly available PostgreSQL, from the client's side.\n\n" + exitHelp,
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newDemoCommand(), newStatusCommand(), newWaitCommand(), newExecCommand())
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, args []string) error { // cobra's own would print them, a DSN too, and call that success
			_, _, err := root.Find(args)
			return err
		}
	}
	return root
}
