// Package demo runs an application on a PostgreSQL cluster and shows what the application sees, in the terminal and on a
// page. If the demo started the cluster itself, it breaks the cluster and measures the outages.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

// Options say how to run the demo.
type Options struct {
	DSN     string       // of an existing cluster, which the demo uses until the context ends; "": the demo starts a cluster
	Runs    int          // how often the list of Faults is repeated; at least 1
	Faults  []string     // some of the package's Faults, in their order
	Hold    bool         // only the page's buttons break the cluster, until the context ends
	Listen  net.Listener // of the page; nil: no page
	Out     io.Writer    // gets the log and the table
	Color   bool         // whether Out gets colours
	Verbose bool         // log also what hasql notices, and each failed operation
}

// Faults are the faults that the script can cause on the master.
var Faults = []string{actionCrash, actionFreeze, actionSwitchover}

// Check returns an error if the options are invalid.
func (o *Options) Check() error {
	if o.Runs < 1 {
		return fmt.Errorf("there must be at least 1 run, not %d", o.Runs)
	}
	for _, f := range o.Faults {
		if !slices.Contains(Faults, f) {
			return fmt.Errorf("there is no fault %q, only %s", f, strings.Join(Faults, ", "))
		}
	}
	if len(o.Faults) == 0 {
		return errors.New("there must be at least one fault")
	}
	return nil
}

const closeLimit = 2 * time.Second // for PoolManager.Close

// Run runs the demo and returns its result, which says whether the promises were kept. With Hold or a DSN it runs until ctx
// ends, and the result is nil. The result is also nil if the demo fails or ctx ends early. A cluster that the demo started is
// stopped and removed. Call Check first.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	b := newBoard(o)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var server sync.WaitGroup
	defer server.Wait()
	defer stop()
	if o.Listen != nil {
		server.Go(func() { err = errors.Join(err, dashboard.Serve(serving, o.Listen, b)) })
	}
	s := &screen{out: o.Out, style: style{o.Color}, verbose: o.Verbose}
	if o.DSN != "" {
		return nil, watch(ctx, o, s, b)
	}
	return play(ctx, o, s, b)
}

// newPoolManager makes the PoolManager of the application. It keeps hasql's defaults and adds only application names and
// hooks that log.
func newPoolManager(ctx context.Context, config *hasql.Config, s *screen) (*hasql.PoolManager, error) {
	for i := range config.Nodes {
		config.Nodes[i].Pool.ConnConfig.RuntimeParams["application_name"] = fmt.Sprint(appName, i)
	}
	config.Hooks = hasql.Hooks{
		NodeChanged: func(old, new hasql.NodeState) {
			text := fmt.Sprintf("hasql: %s %s → %s", new.Name, condition(old), condition(new))
			if new.Cause != nil {
				text += ": " + brief(new.Cause)
			}
			s.noticed(time.Now(), text)
		},
		MasterChanged: func(old, new hasql.NodeState, gap time.Duration) {
			text := fmt.Sprintf("hasql: master lost: %s", old.Name)
			if new.Name != "" {
				text = fmt.Sprintf("hasql: master found: %s, after %s without", new.Name, Millis(gap))
			}
			s.noticed(time.Now(), text)
		},
	}
	return hasql.NewWithConfig(ctx, config)
}

func closePoolManager(ctx context.Context, pm *hasql.PoolManager) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return pm.Close(ctx)
}

// orCause returns the cause of ctx's end if there is an error and ctx has ended, else err.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// brief shortens an error to one line of the log: the message of the library, the server or the kernel, else the first line
// of the error.
func brief(err error) string {
	const width = 80
	if cut, ok := errors.AsType[*hasql.NodeDownError](err); ok {
		return fmt.Sprintf("connection cut because %s is %s", cut.Node, cut.Status)
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Message
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	if runes := []rune(text); len(runes) > width {
		text = string(runes[:width-1]) + "…"
	}
	return text
}
