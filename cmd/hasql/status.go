package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/hasqlhttp"
	"github.com/pghasql/hasql/internal/human"
)

const statusLong = `Probes every node once and shows what hasql knows about it: master, replica, or why it is neither. With --watch it goes
on: on a terminal it redraws the view once a second and after each change, elsewhere it prints a view after each change.

` + dsnHelp + `

Exit status: 0 if there is a master; 1 if there is none; 2 if the command could not run (wrong usage, an invalid DSN); 130
after Ctrl-C. With --watch the command runs until Ctrl-C, and the exit status is 0 then.`

func newStatusCommand() *cobra.Command {
	var asJSON, asView bool
	cmd := &cobra.Command{
		Use:     "status [DSN]",
		Short:   "Show what every node is",
		Long:    statusLong,
		Example: "  hasql status --watch\n  hasql status --json | jq -r '.nodes[] | select(.role == \"master\").name'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := configure(cmd, args)
			if err != nil {
				return err
			}
			var history hasqlhttp.History
			changes := make(chan struct{}, 1)
			config.Hooks = history.Hooks(hasql.Hooks{NodeChanged: func(_, _ hasql.NodeState) { notify(changes) }})
			pm, closeAll, err := open(cmd, config)
			if err != nil {
				return err
			}
			defer closeAll()
			if err := askAll(cmd, pm); err != nil {
				return err
			}
			v := &statusView{pm: pm, out: cmd.OutOrStdout(), asJSON: asJSON, color: wantsColor(cmd.OutOrStdout())}
			if asView {
				v.history = &history
				return v.watch(cmd.Context(), changes)
			}
			return v.once(cmd)
		},
	}
	cmd.Flags().BoolVarP(&asView, "watch", "w", false, "keep running and show every change, until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one document per line; its fields are those of Status in package hasqlhttp")
	return cmd
}

// notify sends to c, which has room for one value, unless a value is waiting there already.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// askAll waits until every node has answered or failed to answer.
func askAll(cmd *cobra.Command, pm *hasql.PoolManager) error {
	stop := showProgress(cmd.Context(), cmd.ErrOrStderr(), pm, "an answer from every node")
	defer stop()
	if err := pm.WaitNextCheck(cmd.Context()); err != nil {
		return failed(cmd, exitUnable, err)
	}
	return nil
}

// statusView writes the state of the cluster.
type statusView struct {
	pm      *hasql.PoolManager
	history *hasqlhttp.History // nil without --watch
	out     io.Writer
	asJSON  bool
	color   bool
}

// once writes the present state, and fails if there is no master.
func (v *statusView) once(cmd *cobra.Command) error {
	s := hasqlhttp.NewStatus(v.pm, nil)
	if err := v.write(s); err != nil {
		return failed(cmd, exitUnable, err)
	}
	if s.Masters == 0 {
		return &exitError{status: exitNo} // the view has said so
	}
	return nil
}

func (v *statusView) write(s *hasqlhttp.Status) error {
	if v.asJSON {
		return json.NewEncoder(v.out).Encode(s)
	}
	var b strings.Builder
	for _, l := range v.lines(s) {
		b.WriteString(v.paint(l) + "\n")
	}
	_, err := io.WriteString(v.out, b.String())
	return err
}

// line is one line of the view. It is bad if it reports a problem.
type line struct {
	text string
	bad  bool
}

// lines returns the state as a sentence, a table of the nodes and, with --watch, the last transitions.
func (v *statusView) lines(s *hasqlhttp.Status) []line {
	rows := [][]string{{"NODE", "ZONE", "ROLE", "STATUS", "TIMELINE", "LAG", "LATENCY", "CAUSE"}}
	up := 0
	for _, n := range s.Nodes {
		if isUp(n) {
			up++
		}
		rows = append(rows, []string{
			n.Name, cmp.Or(n.Zone, "-"), n.Role, n.Status, timeline(n), lag(n), inWords(n.LatencySeconds), printable(n.Cause),
		})
	}
	masters := human.Count(s.Masters, "master")
	if s.Masters == 0 {
		masters = "no master"
	}
	lines := []line{
		{fmt.Sprintf("%s, %s; %d of %s up", masters, human.Count(s.Replicas, "replica"), up, human.Count(len(s.Nodes), "node")), s.Masters == 0},
		{},
	}
	for i, text := range align(rows, make([]bool, len(rows[0])), "  ") {
		lines = append(lines, line{text, i > 0 && !isUp(s.Nodes[i-1])})
	}
	if v.history == nil {
		return lines
	}
	lines = append(lines, line{}, line{text: "Last transitions"})
	for _, t := range s.Transitions[:min(len(s.Transitions), transitionsShown)] {
		lines = append(lines, line{text: fmt.Sprintf("%s  %s: %s %s, was %s %s", t.At.Format("15:04:05.000"), t.Node, t.Status, t.Role,
			t.WasStatus, t.WasRole)})
	}
	return lines
}

// transitionsShown is how many transitions the view shows.
const transitionsShown = 10

// paint colours bad lines, if colours are wanted.
func (v *statusView) paint(l line) string {
	if !v.color || !l.bad {
		return l.text
	}
	return "\x1b[1;31m" + l.text + "\x1b[0m"
}

func isUp(n hasqlhttp.Node) bool { return n.Status == hasql.StatusUp.String() }

func timeline(n hasqlhttp.Node) string {
	if n.Timeline == nil {
		return "unknown"
	}
	return fmt.Sprint(*n.Timeline)
}

func lag(n hasqlhttp.Node) string {
	if n.LagBytes == nil {
		return "unknown"
	}
	return human.Bytes(*n.LagBytes) + ", " + inWords(n.LagSeconds)
}

// inWords writes a number of seconds as text. nil means unknown.
func inWords(seconds *float64) string {
	if seconds == nil {
		return "unknown"
	}
	return human.Duration(time.Duration(*seconds * float64(time.Second)))
}
