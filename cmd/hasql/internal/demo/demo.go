// Package demo runs an application on a PostgreSQL cluster, breaks the cluster if that is its own, and counts what that
// cost, in the terminal and on a page.
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
	DSN     string       // of somebody's cluster, which is watched until the end of the context; "": a cluster of our own
	Runs    int          // how often Faults happen, one after the other; at least 1
	Faults  []string     // of Faults
	Hold    bool         // leave the faults to the page's buttons, until the end of the context
	Listen  net.Listener // for the page; nil: no page
	Out     io.Writer    // for the story and the table
	Color   bool         // colours in Out
	Verbose bool         // tell also what hasql notices, and each failed operation
}

// Faults are what the script can do to the master.
var Faults = []string{actionCrash, actionFreeze, actionSwitchover}

// Check says what makes no sense.
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

const closeLimit = 2 * time.Second // the patience with the library's Close

// Run runs the demo and returns what it found, promises kept or not. With Hold or a DSN it goes on until ctx ends, and
// there is no result. If it fails or ctx ends before its end, there is none either. Nothing of a cluster of ours is left
// behind. The options have passed their Check.
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

// newPoolManager makes what the application works through: hasql as it is out of the box, with names for the nodes and
// ears for the story.
func newPoolManager(ctx context.Context, config *hasql.Config, s *screen) (*hasql.PoolManager, error) {
	for i := range config.Nodes {
		config.Nodes[i].Pool.ConnConfig.RuntimeParams["application_name"] = fmt.Sprint(application, i)
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

// orCause returns why ctx ended, if it did and err came of that; else err.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// brief is the gist of an error, short enough for a line of the story: what the library, the server or the kernel
// said, else its first line.
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
