package main

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"

	"github.com/pghasql/hasql/hasqlhttp"
)

// Control sequences that all terminals understand: see https://invisible-island.net/xterm/ctlseqs/ctlseqs.html.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	goHome      = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// redrawInterval is the time between two redraws on a terminal. Numbers such as the lag change all the time.
const redrawInterval = time.Second

// watch shows the state after each change, until ctx ends.
func (v *statusView) watch(ctx context.Context, changes <-chan struct{}) error {
	draw, tick := v.write, (<-chan time.Time)(nil)
	if _, ok := terminalWidth(v.out); ok && !v.asJSON {
		ticker := time.NewTicker(redrawInterval)
		defer ticker.Stop()
		draw, tick = v.redraw, ticker.C
		if _, err := io.WriteString(v.out, enterScreen); err != nil {
			return err
		}
		defer func() {
			io.WriteString(v.out, leaveScreen)
			v.write(hasqlhttp.NewStatus(v.pm, v.history)) // the last view stays on the terminal
		}()
	}
	for {
		if err := draw(hasqlhttp.NewStatus(v.pm, v.history)); err != nil {
			return err
		}
		select {
		case <-changes:
		case <-tick:
		case <-ctx.Done():
			return nil
		}
	}
}

// redraw fills the terminal with the state and cuts off lines that do not fit.
func (v *statusView) redraw(s *hasqlhttp.Status) error {
	width, height, err := term.GetSize(int(v.out.(*os.File).Fd()))
	if err != nil {
		return err
	}
	lines := append([]line{{text: s.At.Format("15:04:05") + ", Ctrl-C ends"}}, v.lines(s)...)
	var b strings.Builder
	b.WriteString(goHome)
	for _, l := range lines[:min(len(lines), max(height-1, 0))] {
		l.text = runewidth.Truncate(l.text, width-1, "…")
		b.WriteString(v.paint(l) + clearLine + "\n")
	}
	b.WriteString(clearBelow)
	_, err = io.WriteString(v.out, b.String())
	return err
}
