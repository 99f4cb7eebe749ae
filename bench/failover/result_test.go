package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFailuresAreCountedByTextTheMostFrequentFirst(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ö", maxFailureText)
	got := failures([]op{
		{end: 1 * ms, node: nobody, err: "rare"},
		{end: 2 * ms, node: nobody, err: long},
		{end: 3 * ms, node: 0},
		{end: 4 * ms, node: nobody, err: long},
	})
	if len(got) != 2 || got[0].Count != 2 || got[0].First != 2 || got[0].Last != 4 || got[1] != (failure{"rare", 1, 1, 1}) {
		t.Fatalf("got %+v", got)
	}
	if n := len(got[0].Text); n > maxFailureText+len("…") {
		t.Errorf("a text of %d bytes", n)
	}
}

func TestRunTellsOfItself(t *testing.T) {
	t.Parallel()
	r := result{Fault: "freeze", Subject: "hasql fast", Run: 2}
	r.fill(crashed(wrote(1, -1*ms, 0), wrote(2, 100*ms, nobody), wrote(3, 350*ms, 1)))
	want := "freeze, hasql fast, run 2: outage 351 ms, recovery 10.0 ms, read wait -, failed 1 of 3 writes and 0 of 0 reads, 0 lost, 0 stray"
	if got := r.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r.Stall = 87.4
	if got := r.String(); got != want+", machine stalled for 87.4 ms" {
		t.Errorf("with a stall: %s", got)
	}
	if r.SVG != "freeze-hasql-fast-2.svg" {
		t.Errorf("its SVG is %s", r.SVG)
	}
}

func TestReportIsSavedWithFiguresThatAreNoNumbers(t *testing.T) {
	t.Parallel()
	r := result{Fault: "freeze", Subject: "pgxpool", Run: 1}
	r.fill(crashed(wrote(1, -1*ms, 0)))
	dir := t.TempDir()
	if err := (&report{Runs: []result{r}}).save(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "failover.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Runs []struct{ Figures map[string]any }
	}
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	f := back.Runs[0].Figures
	if f["outage_ms"] != "never" || f["first_write_ms"] != nil || f["acknowledged_writes"] != 1.0 {
		t.Errorf("got %v", f)
	}
}

func TestGoroutinesOfASubjectAreToldFromOthers(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		"goroutine 7 [select]:\ngithub.com/pghasql/hasql.(*monitor).rest(0xc0)\n":                                                              true,
		"goroutine 8 [select]:\ngithub.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck(0xc0)\n":                                         true,
		"goroutine 9 [IO wait]:\ngithub.com/jackc/pgx/v5.(*Conn).Exec(0xc0)\nmain.(*load).work(0xc0)\n":                                        false,
		"goroutine 3 [IO wait]:\ngithub.com/jackc/pgx/v5.(*Conn).Exec(0xc0)\ngithub.com/pghasql/hasql/internal/workload.(*Prober).Run(0xc0)\n": false,
		"goroutine 4 [syscall]:\nos/exec.(*Cmd).Wait(0xc0)\ngithub.com/pghasql/hasql/internal/pgcluster.(*install).x(0xc0)\n":                  false,
	}
	for stack, want := range tests {
		if got := ofSubject([]byte(stack)); got != want {
			t.Errorf("%t for %s", got, stack)
		}
	}
}
