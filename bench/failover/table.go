package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pghasql/hasql/internal/workload"
)

// table is a heading, rows with as many cells, and a caption that explains them.
type table struct {
	caption string
	heading []string
	rows    [][]string
}

// column is one figure of several runs of one fault with one subject.
type column struct {
	name string
	cell func(runs []result) string
}

var columns = []column{
	{"outage ms", times(func(f figures) figure { return f.Outage })},
	{"recovery ms", times(func(f figures) figure { return f.Recovery })},
	{"failed writes", counts(func(f figures) int { return f.FailedWrites })},
	{"failed reads", counts(func(f figures) int { return f.FailedReads })},
	{"read wait ms", times(func(f figures) figure { return f.ReadWait })},
	{"lost", counts(func(f figures) int { return f.Lost })},
	{"stray", counts(func(f figures) int { return f.Stray })},
	{"goroutines", goroutinesCell},
	{"first write ms", firstWriteCell},
}

// table sums up the runs: one row for each fault and subject, in the order in which they first appear.
func (r *report) table() *table {
	type series struct{ fault, subject string }
	var order []series
	runs := make(map[series][]result)
	most := 0
	for _, one := range r.Runs {
		s := series{one.Fault, one.Subject}
		if runs[s] == nil {
			order = append(order, s)
		}
		runs[s] = append(runs[s], one)
		most = max(most, len(runs[s]))
	}
	t := &table{caption: r.caption(most), heading: []string{"fault", "subject"}}
	for _, c := range columns {
		t.heading = append(t.heading, c.name)
	}
	for _, s := range order {
		row := []string{s.fault, s.subject}
		for _, c := range columns {
			row = append(row, c.cell(runs[s]))
		}
		t.rows = append(t.rows, row)
	}
	t.drop()
	return t
}

func (r *report) caption(runs int) string {
	e := r.Environment
	of := "One run each"
	if runs > 1 {
		of = fmt.Sprintf("Median (least … greatest) of %d runs", runs)
	}
	replication := "asynchronous"
	if e.Flags["sync"] == "true" {
		replication = "synchronous"
	}
	var stall figure
	for _, one := range r.Runs {
		stall = max(stall, one.Stall)
	}
	return fmt.Sprintf("%s; %s replication, PostgreSQL %s, pgx %s, %s, %d CPUs that were busy with other things for up to %v ms.\n%s",
		of, replication, e.PostgreSQL, e.Pgx, e.Go, e.CPUs, stall, explanation)
}

const explanation = `outage: from the last write that the old master acknowledged to the first that the new one did (without a promotion: the
longest time without one). recovery: the part of it in which the new master accepted writes. read wait: the longest time
a reader was without an answer. lost: acknowledged writes that the last master does not have. stray: writes acknowledged by
the old master when the new one already accepted writes. goroutines: before the fault → at the end.`

// drop removes columns without a value in any row.
func (t *table) drop() {
	for i := len(t.heading) - 1; i >= 0; i-- {
		if !slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "-" }) {
			t.heading = slices.Delete(t.heading, i, i+1)
			for k := range t.rows {
				t.rows[k] = slices.Delete(t.rows[k], i, i+1)
			}
		}
	}
}

func times(of func(figures) figure) func([]result) string {
	return func(runs []result) string {
		var values []figure
		for _, r := range runs {
			if v := of(r.Figures); !v.isNone() {
				values = append(values, v)
			}
		}
		if len(values) == 0 {
			return "-"
		}
		median, least, greatest := workload.Spread(values)
		return spread(median.String(), least.String(), greatest.String())
	}
}

func counts(of func(figures) int) func([]result) string {
	return func(runs []result) string {
		var values []int
		for _, r := range runs {
			values = append(values, of(r.Figures))
		}
		median, least, greatest := workload.Spread(values)
		return spread(fmt.Sprint(median), fmt.Sprint(least), fmt.Sprint(greatest))
	}
}

func spread(median, least, greatest string) string {
	if least == greatest {
		return median
	}
	return fmt.Sprintf("%s (%s … %s)", median, least, greatest)
}

// goroutinesCell shows how many a subject has before the fault and at the end, and the most that outlived it.
func goroutinesCell(runs []result) string {
	var before, after, left []int
	for _, r := range runs {
		before, after = append(before, r.Goroutines.Before), append(after, r.Goroutines.After)
		left = append(left, r.Goroutines.Left)
	}
	b, _, _ := workload.Spread(before)
	a, _, _ := workload.Spread(after)
	cell := fmt.Sprintf("%d → %d", b, a)
	if _, _, most := workload.Spread(left); most > 0 {
		cell += fmt.Sprintf(", %d left", most)
	}
	return cell
}

// firstWriteCell shows how long the first write after a pause took, and which node acknowledged it how often.
func firstWriteCell(runs []result) string {
	cell := times(func(f figures) figure { return f.FirstWrite })(runs)
	var nodes []string
	on := make(map[string]int)
	for _, r := range runs {
		if n := r.Figures.FirstNode; n != "" {
			if on[n]++; on[n] == 1 {
				nodes = append(nodes, n)
			}
		}
	}
	slices.Sort(nodes)
	switch len(nodes) {
	case 0:
		return cell
	case 1:
		return cell + " on " + nodes[0]
	}
	for i, n := range nodes {
		nodes[i] = fmt.Sprintf("%s %d×", n, on[n])
	}
	return cell + " on " + strings.Join(nodes, ", ")
}

// render writes the table, as aligned text or in Markdown.
func (t *table) render(w io.Writer, markdown bool) error {
	all := append([][]string{t.heading}, t.rows...)
	widths := make([]int, len(t.heading))
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for i, row := range all {
		line := make([]string, len(row))
		for k, cell := range row {
			if !markdown && k == 0 && i > 1 && cell == all[i-1][0] {
				cell = "" // the fault stands above
			}
			line[k] = cell + strings.Repeat(" ", widths[k]-utf8.RuneCountInString(cell))
		}
		switch {
		case markdown:
			fmt.Fprintf(&b, "| %s |\n", strings.Join(line, " | "))
		default:
			if i > 1 && row[0] != all[i-1][0] {
				b.WriteString("\n")
			}
			fmt.Fprintln(&b, strings.TrimRight(strings.Join(line, "   "), " "))
		}
		if markdown && i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat(" --- |", len(row)))
		}
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n", b.String(), t.caption)
	return err
}
