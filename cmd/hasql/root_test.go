package main

import (
	"strings"
	"testing"
)

func TestExitStatusAndWords(t *testing.T) {
	t.Setenv("PGBINDIR", t.TempDir()) // no demo can start here
	tests := map[string]struct {
		args   []string
		status int
		stdout string
		stderr string
	}{
		"no arguments":      {nil, 0, "demo", ""},
		"help":              {[]string{"demo", "--help"}, 0, "Exit status", ""},
		"help on a command": {[]string{"help", "wait"}, 0, "init containers", ""},
		"help on nothing":   {[]string{"help", "dance"}, exitUnable, "", `unknown command "dance"`},
		"unknown command":   {[]string{"dance"}, exitUnable, "", `unknown command "dance"`},
		"unknown flag":      {[]string{"demo", "--fast"}, exitUnable, "", "unknown flag: --fast"},
		"too many words":    {[]string{"demo", "now"}, exitUnable, "", `unknown command "now"`},
		"senseless runs":    {[]string{"demo", "--runs", "0"}, exitUnable, "", "at least 1 run"},
		"no PostgreSQL":     {[]string{"demo"}, exitUnable, "Starting", "$PGBINDIR"},
		"the same for JSON": {[]string{"demo", "--json"}, exitUnable, "", "no PostgreSQL server binaries"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if got := run(test.args, &stdout, &stderr); got != test.status {
				t.Errorf("exit status %d, want %d", got, test.status)
			}
			if !strings.Contains(stdout.String(), test.stdout) || test.stdout == "" && stdout.Len() > 0 {
				t.Errorf("stdout: %q", stdout.String())
			}
			if !strings.Contains(stderr.String(), test.stderr) || test.stderr == "" && stderr.Len() > 0 {
				t.Errorf("stderr: %q", stderr.String())
			}
		})
	}
}
