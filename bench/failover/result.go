package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// report is everything that was measured, as the JSON file has it.
type report struct {
	Environment environment `json:"environment"`
	Runs        []result    `json:"runs"`
}

// environment is where and how the runs were made.
type environment struct {
	Time       time.Time         `json:"time"`
	Go         string            `json:"go"`
	Pgx        string            `json:"pgx"`
	PostgreSQL string            `json:"postgresql"`
	Platform   string            `json:"platform"`
	CPUs       int               `json:"cpus"`
	Flags      map[string]string `json:"flags"`
	Faults     map[string]string `json:"faults"`
	Subjects   map[string]string `json:"subjects"`
}

func newEnvironment(o *options) environment {
	e := environment{
		Time: time.Now().UTC(), Go: runtime.Version(), Pgx: moduleVersion("github.com/jackc/pgx/v5"),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Flags: o.given,
		Faults: make(map[string]string), Subjects: make(map[string]string),
	}
	for _, f := range o.faults {
		e.Faults[f.name] = f.about
	}
	for _, c := range o.subjects {
		e.Subjects[c.name] = c.about
	}
	return e
}

func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return ""
}

// result is one run.
type result struct {
	Fault      string     `json:"fault"`
	Subject    string     `json:"subject"`
	Run        int        `json:"run"`
	SVG        string     `json:"svg"`
	Warm       figure     `json:"worked_before_ms"`
	Marks      []mark     `json:"marks"`
	Figures    figures    `json:"figures"`
	Goroutines goroutines `json:"goroutines"`
	Stall      figure     `json:"machine_stall_ms"` // the longest time that this process did not get to run
	Errors     []failure  `json:"errors,omitempty"`

	postgres string
}

// failure is an error of operations, and how many of them had it.
type failure struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
	First figure `json:"first_ms"`
	Last  figure `json:"last_ms"`
}

// fill computes the result from the record of the run.
func (r *result) fill(rec record) {
	r.SVG = strings.ReplaceAll(fmt.Sprintf("%s-%s-%d.svg", r.Fault, r.Subject, r.Run), " ", "-")
	r.Marks = rec.marks
	r.Figures = account(rec)
	r.Errors = failures(rec.ops)
}

const (
	maxFailures    = 10 // different errors of one run in the JSON
	maxFailureText = 400
)

// failures counts the errors of ops, the most frequent first.
func failures(ops []op) []failure {
	byText := make(map[string]*failure)
	var all []*failure
	for _, o := range ops {
		if o.node != nobody {
			continue
		}
		f := byText[o.err]
		if f == nil {
			f = &failure{Text: o.err, First: millis(o.end), Last: millis(o.end)}
			byText[o.err] = f
			all = append(all, f)
		}
		f.Count++
		f.First, f.Last = min(f.First, millis(o.end)), max(f.Last, millis(o.end))
	}
	slices.SortStableFunc(all, func(a, b *failure) int { return cmp.Compare(b.Count, a.Count) })
	var most []failure
	for _, f := range all[:min(len(all), maxFailures)] {
		if len(f.Text) > maxFailureText {
			f.Text = strings.ToValidUTF8(f.Text[:maxFailureText], "") + "…"
		}
		most = append(most, *f)
	}
	return most
}

// worthStall is a stall of the machine that may show in the figures.
const worthStall figure = 20

// String returns the run on one line.
func (r result) String() string {
	f := r.Figures
	parts := []string{fmt.Sprintf("%s, %s, run %d:", r.Fault, r.Subject, r.Run)}
	add := func(name string, value figure) {
		text := value.String()
		if value != never && !value.isNone() {
			text += " ms"
		}
		parts = append(parts, fmt.Sprintf("%s %s,", name, text))
	}
	if !f.Outage.isNone() {
		add("outage", f.Outage)
	}
	if !f.Recovery.isNone() {
		add("recovery", f.Recovery)
	}
	if !f.FirstWrite.isNone() {
		add("first write on "+cmp.Or(f.FirstNode, "nobody"), f.FirstWrite)
	}
	add("read wait", f.ReadWait)
	text := strings.Join(parts, " ") + fmt.Sprintf(" failed %d of %d writes and %d of %d reads, %d lost, %d stray",
		f.FailedWrites, f.FailedWrites+f.Writes, f.FailedReads, f.FailedReads+f.Reads, f.Lost, f.Stray)
	if r.Stall >= worthStall {
		text += fmt.Sprintf(", machine stalled for %v ms", r.Stall)
	}
	return text
}

// save writes the JSON.
func (r *report) save(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "failover.json"), append(text, '\n'), 0o644)
}
