package main

import (
	"strings"
	"testing"
)

func sample() *report {
	ok := func(outage figure, failed int) figures {
		return figures{Outage: outage, Recovery: outage - 300, ReadWait: none, FirstWrite: none, FailedWrites: failed}
	}
	return &report{
		Environment: environment{Go: "go1.26", Pgx: "v5", PostgreSQL: "18", CPUs: 2},
		Runs: []result{
			{Fault: "crash", Subject: "hasql", Figures: ok(310, 1), Goroutines: goroutines{11, 10, 0}, Stall: 12},
			{Fault: "crash", Subject: "pgxpool", Figures: ok(never, 20), Goroutines: goroutines{2, 2, 3}},
			{Fault: "crash", Subject: "hasql", Figures: ok(320, 1), Goroutines: goroutines{11, 10, 0}},
			{Fault: "crash", Subject: "pgxpool", Figures: ok(330, 25), Goroutines: goroutines{2, 2, 0}},
			{
				Fault: "idle-promotion", Subject: "hasql",
				Figures: figures{Outage: none, Recovery: none, ReadWait: none, FirstWrite: 2.5, FirstNode: "n2"},
			},
		},
	}
}

func TestTableHasARowForEachFaultAndSubject(t *testing.T) {
	t.Parallel()
	want := `
fault            subject   outage ms           recovery ms         failed writes   failed reads   lost   stray   goroutines       first write ms
crash            hasql     320 (310 … 320)     20.0 (10.0 … 20.0)  1               0              0      0       11 → 10          -
                 pgxpool   never (330 … never) never (30.0 … never) 25 (20 … 25)   0              0      0       2 → 2, 3 left    -

idle-promotion   hasql     -                   -                   0               0              0      0       0 → 0            2.5 on n2
`
	var got strings.Builder
	if err := sample().table().render(&got, false); err != nil {
		t.Fatal(err)
	}
	text, caption, _ := strings.Cut(got.String(), "\nMedian ")
	squeeze := func(s string) string {
		var lines []string
		for line := range strings.Lines(strings.TrimSpace(s)) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return strings.Join(lines, "\n")
	}
	if squeeze(text) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if !strings.HasPrefix(caption, "(least … greatest) of 2 runs; asynchronous replication, PostgreSQL 18, pgx v5, go1.26, 2 CPUs that were busy with other things for up to 12.0 ms.") {
		t.Errorf("caption: %s", caption)
	}
}

func TestTableIsAligned(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	if err := sample().table().render(&got, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(got.String(), "\n")
	column := strings.Index(lines[0], "subject")
	for _, i := range []int{1, 2, 4} {
		if line := lines[i]; line[column-1] != ' ' || line[column] == ' ' {
			t.Errorf("%q is not aligned with %q", line, lines[0])
		}
	}
}

func TestMarkdownRepeatsTheFault(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	if err := sample().table().render(&got, true); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(got.String(), "\n")
	if len(lines) < 5 || !strings.HasPrefix(lines[0], "| fault") || !strings.HasPrefix(lines[1], "| --- | --- |") ||
		!strings.HasPrefix(lines[3], "| crash ") || strings.Count(lines[3], "|") != strings.Count(lines[1], "|") {
		t.Errorf("got\n%s", got.String())
	}
}

func TestFirstWriteTellsWhoDidItHowOften(t *testing.T) {
	t.Parallel()
	runs := []result{
		{Figures: figures{FirstWrite: 3, FirstNode: "n2"}},
		{Figures: figures{FirstWrite: 1, FirstNode: "n1"}},
		{Figures: figures{FirstWrite: 2, FirstNode: "n2"}},
		{Figures: figures{FirstWrite: never}},
	}
	if got, want := firstWriteCell(runs), "3.0 (1.0 … never) on n1 1×, n2 2×"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
