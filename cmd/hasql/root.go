package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses besides 0.
const (
	exitNo          = 1   // the command ran, and the answer is no
	exitUnable      = 2   // the command could not run
	exitTimedOut    = 3   // no fitting node was available in time
	exitInterrupted = 130 // what shells use for a command that Ctrl-C ended
)

const exitHelp = `Exit status: 0 if the command succeeded; 1 if the answer is no (there is no master, a statement failed, the demo
saw a broken promise); 2 if the command could not run (wrong usage, an invalid DSN); 3 if no fitting node was
available in time; 130 after Ctrl-C.`

// exitError is the error of a subcommand, with the exit status of the process. The text is empty if the command has
// already printed everything.
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
		text = "wrong usage, see --help; the arguments are not repeated here because one of them looks like a DSN"
	}
	if text != "" {
		fmt.Fprintln(stderr, "hasql:", text)
	}
	return status
}

// holdsDSN reports whether a usage error repeats an argument that may contain a password.
func holdsDSN(text string) bool {
	return strings.Contains(text, "://") || strings.Contains(strings.ToLower(text), "password")
}

// version returns the version that the command was installed as, or the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "hasql",
		Short:         "Highly available PostgreSQL, from the client's side",
		Long:          "Highly available PostgreSQL, from the client's side.\n\n" + exitHelp,
		Version:       version(),
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newDemoCommand(), newStatusCommand(), newWaitCommand(), newExecCommand())
	root.AddCommand(newOrderCommands()...)
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, args []string) error { // cobra's own function prints the arguments, even a DSN, and succeeds
			_, _, err := root.Find(args)
			return err
		}
	}
	return root
}
