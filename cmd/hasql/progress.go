package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"

	"github.com/pghasql/hasql"
)

// progressAfter is how long a wait may take before it is shown.
const progressAfter = time.Second

// showProgress writes to w, once a second, what the command waits for and the state of the nodes. It rewrites a single line
// and removes that line at the end. If w is not a terminal it does nothing. The caller must call stop.
func showProgress(ctx context.Context, w io.Writer, pm *hasql.PoolManager, wanted string) (stop func()) {
	width, ok := terminalWidth(w)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	began := time.Now()
	running.Go(func() {
		ticker := time.NewTicker(progressAfter)
		defer ticker.Stop()
		shown := false
		for {
			select {
			case <-ticker.C:
				line := fmt.Sprintf("waiting %.0f s for %s: %s", time.Since(began).Seconds(), wanted, nodesInShort(pm))
				fmt.Fprint(w, "\r\x1b[K", runewidth.Truncate(line, width-1, "…"))
				shown = true
			case <-ctx.Done():
				if shown {
					fmt.Fprint(w, "\r\x1b[K")
				}
				return
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// nodesInShort returns every node's name, status and role.
func nodesInShort(pm *hasql.PoolManager) string {
	var parts []string
	for n := range pm.Snapshot().Nodes() {
		part := n.Name + " " + n.Status.String()
		if n.Role != hasql.RoleUnknown {
			part += " " + n.Role.String()
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// terminalWidth returns the number of columns of w if w is a terminal.
func terminalWidth(w io.Writer) (columns int, ok bool) {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return 0, false
	}
	columns, _, err := term.GetSize(int(file.Fd()))
	return columns, err == nil && columns > 0
}
