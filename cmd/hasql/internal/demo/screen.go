package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// style colours text if color is set.
type style struct{ color bool }

func (s style) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(text string) string { return s.paint("1", text) }
func (s style) dim(text string) string  { return s.paint("2", text) }
func (s style) good(text string) string { return s.paint("32", text) }
func (s style) bad(text string) string  { return s.paint("1;31", text) }

// Kinds of events, as the page's log shows them.
const (
	eventFault   = "fault"   // the demo broke something
	eventRepair  = "repair"  // the demo repaired or promoted something
	eventNoticed = "noticed" // the library or the prober noticed something
	eventOutage  = "outage"  // an outage of the application ended
	eventError   = "error"
)

// screen writes the log, line by line, to the terminal and to the page. Its methods may be called from several goroutines.
type screen struct {
	style
	out      io.Writer
	verbose  bool
	recorder *recorder // gets the log of the page

	mu    sync.Mutex
	began time.Time // time zero of the log
	mark  time.Time // of the last event; echoes show the time since then
}

// line writes text as it is.
func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.out, text)
}

// begin starts the clock.
func (s *screen) begin(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.mark = at, at
}

// since returns the time since the clock began, and zero for a time before.
func (s *screen) since(at time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began.IsZero() {
		return 0
	}
	return max(at.Sub(s.began), 0)
}

// event logs something that happened to the cluster.
func (s *screen) event(at time.Time, kind, text string) {
	s.mu.Lock()
	s.mark = at
	fmt.Fprintln(s.out, s.bold(clock(at.Sub(s.began), 3)+text))
	s.mu.Unlock()
	s.log(at, kind, text)
}

// echo logs a consequence of the last event, with the time since then.
func (s *screen) echo(at time.Time, kind, text string) {
	s.mu.Lock()
	fmt.Fprintln(s.out, s.good(after(at.Sub(s.mark))+text))
	s.mu.Unlock()
	s.log(at, kind, text)
}

// noticed logs on the page always, and in the terminal like aside.
func (s *screen) noticed(at time.Time, text string) {
	s.aside(at, text)
	s.log(at, eventNoticed, text)
}

// aside is an echo that is logged only with --verbose.
func (s *screen) aside(at time.Time, text string) {
	if !s.verbose {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began.IsZero() {
		fmt.Fprintln(s.out, s.dim(after(at.Sub(s.mark))+text))
	}
}

func (s *screen) log(at time.Time, kind, text string) {
	if s.recorder != nil {
		s.recorder.event(s.since(at), kind, text)
	}
}

// tick writes one line of the table of seconds.
func (s *screen) tick(at time.Time, t tick) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.out, t.render(clock(at.Sub(s.began), 1), s.style))
}

const timeWidth = 11

// clock is the first column: "    4.302 s  ".
func clock(d time.Duration, decimals int) string {
	return fmt.Sprintf("%*s  ", timeWidth, fmt.Sprintf("%.*f s", decimals, d.Seconds()))
}

// after is the first column of an echo: "      +9 ms  ".
func after(d time.Duration) string {
	return fmt.Sprintf("%*s  ", timeWidth, fmt.Sprintf("%+d ms", d.Round(time.Millisecond).Milliseconds()))
}

// tick is one second of the workload.
type tick struct {
	master                string // "" if none is known
	writes, reads, failed int    // in this second
	nodes                 []string
}

const tickFormat = "%-6s  %8s  %8s  %6s  %s"

func header(nodes []string) string {
	return fmt.Sprintf("%*s  "+tickFormat, timeWidth, "time", "master", "writes/s", "reads/s", "failed", columns(nodes))
}

func (t tick) render(clock string, s style) string {
	master := t.master
	if master == "" {
		master = "none"
	}
	failed := fmt.Sprintf("%6d", t.failed)
	if t.failed > 0 {
		failed = s.bad(failed)
	}
	return clock + fmt.Sprintf(tickFormat, master, fmt.Sprint(t.writes), fmt.Sprint(t.reads), failed, columns(t.nodes))
}

func columns(cells []string) string {
	var b strings.Builder
	for _, cell := range cells {
		fmt.Fprintf(&b, "%-9s", cell)
	}
	return strings.TrimRight(b.String(), " ")
}
