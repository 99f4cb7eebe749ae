package main

import (
	"net"
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
		"unknown fault":     {[]string{"demo", "--faults", "flood"}, exitUnable, "", `no fault "flood"`},
		"senseless address": {[]string{"demo", "--listen", "nowhere"}, exitUnable, "", "missing port"},
		"senseless DSN":     {[]string{"demo", "--dsn", "pg1:pg2"}, exitUnable, "shows it live", "invalid configuration"},
		"two modes":         {[]string{"demo", "--dsn", "host=pg1", "--hold"}, exitUnable, "", "none of the others can be"},
		"too many words":    {[]string{"demo", "now"}, exitUnable, "", `unknown command "now"`},
		"senseless runs":    {[]string{"demo", "--runs", "0"}, exitUnable, "", "at least 1 run"},
		"version":           {[]string{"--version"}, 0, "hasql version ", ""},
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

func TestPageGetsTheNextFreePort(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if listener, err := listenOn(taken.Addr().String(), false); err == nil {
		listener.Close()
		t.Errorf("listens on %v, which is taken", listener.Addr())
	}
	listener, err := listenOn(taken.Addr().String(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	was, is := taken.Addr().(*net.TCPAddr), listener.Addr().(*net.TCPAddr)
	if is.Port <= was.Port || is.Port >= was.Port+portsToTry || !is.IP.Equal(was.IP) {
		t.Errorf("listens on %v instead of %v", is, was)
	}
}
