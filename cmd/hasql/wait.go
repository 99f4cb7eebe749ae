package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/human"
)

const waitLong = `Waits until the cluster has at least the given numbers of masters and replicas. It is meant for start scripts and
init containers. It prints nothing if it succeeds; on a terminal it shows what it waits for.

` + dsnHelp + `

Exit status: 0 if the nodes are there; 2 if the command could not run (wrong usage, an invalid DSN, more nodes wanted than
the DSN has); 3 if the timeout ended first, with a line about each node; 130 after Ctrl-C.`

func newWaitCommand() *cobra.Command {
	var (
		masters, replicas int
		timeout           time.Duration
	)
	cmd := &cobra.Command{
		Use:     "wait [DSN]",
		Short:   "Wait until there are a master and replicas",
		Long:    waitLong,
		Example: "  hasql wait --masters 1 --replicas 1 --timeout 30s && exec ./server",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if masters < 0 || replicas < 0 || timeout <= 0 {
				return failed(cmd, exitUnable, errors.New("--masters and --replicas must not be negative, --timeout must be positive"))
			}
			config, err := configure(cmd, args)
			if err != nil {
				return err
			}
			pm, closeAll, err := open(cmd, config)
			if err != nil {
				return err
			}
			defer closeAll()
			return wait(cmd, pm, masters, replicas, timeout)
		},
	}
	cmd.Flags().IntVar(&masters, "masters", 1, "minimum `number` of masters")
	cmd.Flags().IntVar(&replicas, "replicas", 0, "minimum `number` of replicas")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	return cmd
}

func wait(cmd *cobra.Command, pm *hasql.PoolManager, masters, replicas int, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	stop := showProgress(ctx, cmd.ErrOrStderr(), pm, mastersAndReplicas(masters, replicas))
	err := pm.Ready(ctx, masters, replicas)
	stop()
	if err == nil {
		return nil
	}
	if missing, ok := errors.AsType[*hasql.NoNodeError](err); ok {
		return failed(cmd, exitTimedOut, errors.New(shortfall(missing, masters, replicas)))
	}
	return failed(cmd, exitUnable, fmt.Errorf("--masters %d --replicas %d: there are only %s", masters, replicas, human.Count(nodeCount(pm), "node")))
}

func nodeCount(pm *hasql.PoolManager) (n int) {
	for range pm.Snapshot().Nodes() {
		n++
	}
	return n
}

// shortfall returns what is missing, followed by one line about each node.
func shortfall(e *hasql.NoNodeError, masters, replicas int) string {
	for _, n := range e.Nodes {
		switch n.Role {
		case hasql.RoleMaster:
			masters--
		case hasql.RoleReplica:
			replicas--
		}
	}
	lines := []string{fmt.Sprintf("after %v still missing: %s", e.Waited.Round(time.Millisecond), mastersAndReplicas(masters, replicas))}
	for i := range e.Nodes {
		lines = append(lines, e.Nodes[i].String())
	}
	return strings.Join(lines, "\n  ")
}

// mastersAndReplicas names the two numbers and leaves out those that are not positive.
func mastersAndReplicas(masters, replicas int) string {
	var parts []string
	if masters > 0 {
		parts = append(parts, human.Count(masters, "master"))
	}
	if replicas > 0 {
		parts = append(parts, human.Count(replicas, "replica"))
	}
	return strings.Join(parts, " and ")
}
