package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/pghasql/hasql"
)

const execLong = `Runs statements on one connection, one -c after the other, and stops at the first statement that fails. --master,
--replica, --prefer-replica and --any choose the node. Without them the DSN's target_session_attrs chooses it, and
without that it is the master. If no such node is available, the command waits for one.

The statements of one -c, or of one file, are sent together: they are one transaction unless they contain begin and commit.

Results are printed as tables; control characters are printed as \n or \x1b. --csv and --json are for programs. In CSV a
null is an empty field. JSON has one array of objects for each result; of two columns named x the second is named x_2.

` + dsnHelp + `

Exit status: 0 if every statement succeeded; 1 if one failed (the statements before it have taken effect); 2 if the command
could not run (wrong usage, an invalid DSN, an unreadable file); 3 if no fitting node had a connection in time; 130 after
Ctrl-C, which also cancels the running statement.`

// targetFlags choose the node. The user gives at most one of them.
var targetFlags = []struct {
	name   string
	target hasql.Target
	usage  string
}{
	{"master", hasql.TargetMaster, "run on the master"},
	{"replica", hasql.TargetReplica, "run on a replica"},
	{"prefer-replica", hasql.TargetPreferReplica, "run on a replica, or the master if there is none"},
	{"any", hasql.TargetAny, "run on any node that is up"},
}

// statements are the flags that hold the SQL to run.
type statements struct {
	commands []string
	file     string
}

// read returns the texts to send. Each text may hold several statements.
func (s statements) read(stdin io.Reader) ([]string, error) {
	switch s.file {
	case "":
		if len(s.commands) == 0 {
			return nil, errors.New("there is nothing to run: give -c or -f")
		}
		return s.commands, nil
	case "-":
		text, err := io.ReadAll(stdin)
		return []string{string(text)}, err
	}
	text, err := os.ReadFile(s.file)
	return []string{string(text)}, err
}

func newExecCommand() *cobra.Command {
	var (
		what          statements
		asCSV, asJSON bool
		timeout       time.Duration
	)
	cmd := &cobra.Command{
		Use:   "exec [DSN] -c STATEMENT...",
		Short: "Run statements on the master or on a replica",
		Long:  execLong,
		Example: "  hasql exec --replica -c 'select count(*) from visits'\n" +
			"  hasql exec --csv -c 'table visits' >visits.csv\n  hasql exec -f - <schema.sql",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sqls, err := what.read(cmd.InOrStdin())
			if err != nil {
				return failed(cmd, exitUnable, err)
			}
			config, err := configure(cmd, args)
			if err != nil {
				return err
			}
			config.Target = wantedTarget(cmd, config.Target)
			if cmd.Flags().Changed("timeout") {
				config.AcquireTimeout = timeout
			}
			return execute(cmd, config, sqls, newPrinter(cmd.OutOrStdout(), asCSV, asJSON))
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&what.commands, "command", "c", nil, "`statement` to run; may be given several times")
	flags.StringVarP(&what.file, "file", "f", "", "`file` with statements to run, - for standard input")
	flags.BoolVar(&asCSV, "csv", false, "write results as CSV with a line of headings")
	flags.BoolVar(&asJSON, "json", false, "write results as JSON")
	flags.DurationVar(&timeout, "timeout", hasql.DefaultAcquireTimeout, "how long to wait for a connection, instead of the DSN's hasql_acquire_timeout")
	for _, f := range targetFlags {
		flags.Bool(f.name, false, f.usage)
	}
	cmd.MarkFlagsMutuallyExclusive("master", "replica", "prefer-replica", "any")
	cmd.MarkFlagsMutuallyExclusive("command", "file")
	cmd.MarkFlagsMutuallyExclusive("csv", "json")
	return cmd
}

// wantedTarget returns the target of the flags, else that of the DSN, else the master.
func wantedTarget(cmd *cobra.Command, ofDSN hasql.Target) hasql.Target {
	for _, f := range targetFlags {
		if on, err := cmd.Flags().GetBool(f.name); err == nil && on {
			return f.target
		}
	}
	return cmp.Or(ofDSN, hasql.TargetMaster) // TargetAny is the zero value, which a DSN without target_session_attrs has
}

// execute runs each statement on one connection to a node of the configuration's target.
func execute(cmd *cobra.Command, config *hasql.Config, sqls []string, p printer) error {
	for _, n := range config.Nodes {
		n.Pool.ConnConfig.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", notice.Severity, printable(notice.Message))
		}
	}
	pm, closeAll, err := open(cmd, config)
	if err != nil {
		return err
	}
	defer closeAll()
	stop := showProgress(cmd.Context(), cmd.ErrOrStderr(), pm, "a "+config.Target.String())
	conn, err := pm.Default().Acquire(cmd.Context())
	stop()
	if err != nil {
		return failed(cmd, exitTimedOut, err)
	}
	defer conn.Release()
	for _, sql := range sqls {
		if err := send(cmd, conn.Conn().PgConn(), sql, p); err != nil {
			return err
		}
	}
	return nil
}

// send sends one text in the simple protocol: there a text may hold several statements, and the server sends values as text.
func send(cmd *cobra.Command, conn *pgconn.PgConn, sql string, p printer) error {
	results := conn.Exec(cmd.Context(), sql)
	var failure error
	for failure == nil && results.NextResult() {
		failure = show(results.ResultReader(), p)
	}
	if err := results.Close(); err != nil {
		return failed(cmd, exitNo, explained(err))
	}
	if failure != nil {
		return failed(cmd, exitUnable, fmt.Errorf("write the result: %w", failure))
	}
	return nil
}

// show writes one result. Its error is that of the writer; the server's error comes at the end of all results.
func show(result *pgconn.ResultReader, p printer) error {
	fields := result.FieldDescriptions()
	if err := p.begin(fields); err != nil {
		return err
	}
	for result.NextRow() {
		if err := p.row(result.Values()); err != nil {
			return err
		}
	}
	tag, err := result.Close()
	if err != nil {
		return nil
	}
	return p.end(tag)
}

// explained adds detail, hint and context to a server's error.
func explained(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	lines := []string{pgErr.Error()}
	for _, more := range []struct{ what, words string }{{"detail", pgErr.Detail}, {"hint", pgErr.Hint}, {"context", pgErr.Where}} {
		if more.words != "" {
			lines = append(lines, more.what+": "+more.words)
		}
	}
	return errors.New(strings.Join(lines, "\n  "))
}
