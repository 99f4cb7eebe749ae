package main

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestWait(t *testing.T) {
	cluster := useCluster(t)
	invoke(t, "wait").expect(t, 0, "", "")
	invoke(t, "wait", "--masters", "1", "--replicas", "2", "--timeout", "1m").expect(t, 0, "", "")
	invoke(t, "wait", "--masters", "2", "--replicas", "2").expect(t, exitUnable, "", "there are only 3 nodes")
	invoke(t, "wait", "--masters", "-1", "--replicas", "-1").expect(t, exitUnable, "", "must not be negative")
	invoke(t, "wait", "--timeout", "0").expect(t, exitUnable, "", "must be positive")

	t.Setenv("DATABASE_URL", cluster.Nodes()[0].DSN())
	o := invoke(t, "wait", "--masters", "0", "--replicas", "1", "--timeout", "2s")
	o.expect(t, exitTimedOut, "", "still missing: 1 replica\n  "+cluster.Nodes()[0].Addr()+" up master")
}

func TestWaitSaysWhatIsMissing(t *testing.T) {
	o := invoke(t, "wait", nobody, "--masters", "1", "--replicas", "1", "--timeout", "2s")
	o.expect(t, exitTimedOut, "", "still missing: 1 master and 1 replica\n")
	if lines := strings.Split(o.stderr, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[1], "  127.0.0.1:1 down: ") ||
		!strings.Contains(lines[2], "connection refused") {
		t.Errorf("a line on each node: %s", o.stderr)
	}
}

func TestCtrlCEndsWait(t *testing.T) {
	// The server accepts connections and sends nothing. The first connection shows that the command waits.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := child(t, "wait", "postgres://app@"+listener.Addr().String()+"/shop?sslmode=disable")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if got := exitStatus(t, cmd); got != exitInterrupted || stderr.String() != "hasql: wait: interrupted\n" {
		t.Errorf("exit status %d, stderr %q", got, stderr.String())
	}
}
