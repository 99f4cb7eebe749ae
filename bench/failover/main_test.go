package main

import (
	"io"
	"strings"
	"testing"
)

func TestFlagsChooseFaultsAndSubjects(t *testing.T) {
	t.Parallel()
	o, err := parseFlags([]string{"-n", "2", "-faults", "freeze, crash", "-subjects", "pgxpool,hasql fast"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.faults) != 2 || o.faults[0].name != "crash" || o.faults[1].name != "freeze" {
		t.Errorf("faults: %v", len(o.faults))
	}
	if len(o.subjects) != 2 || o.subjects[0].name != "hasql fast" || o.total() != 8 || o.given["n"] != "2" {
		t.Errorf("subjects: %d, runs: %d, -n %s", len(o.subjects), o.total(), o.given["n"])
	}
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"-n 0":                "-n and -max-conns must be at least 1",
		"-readers -1":         "-readers at least 0",
		"-faults crush":       `"crush" is none of: crash, stop-fast`,
		"-subjects libpq":     `"libpq" is none of: hasql, hasql fast, pgxpool`,
		"crash":               `unknown argument "crash"`,
		"-faults x -n 1 -wat": "not defined",
	}
	for args, want := range tests {
		_, err := parseFlags(strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestDefaultsAreAllOfIt(t *testing.T) {
	t.Parallel()
	o, err := parseFlags(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.total() != 10*len(faults)*len(contenders) || o.estimate() <= 0 {
		t.Errorf("%d runs in %v", o.total(), o.estimate())
	}
}
