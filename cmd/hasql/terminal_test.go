package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"
)

// terminal runs a command on a terminal of its own.
type terminal struct {
	t    *testing.T
	file *os.File
	seen strings.Builder
}

func startOnTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 60})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &terminal{t: t, file: file}
}

// await reads the output until it contains text the given number of times.
func (term *terminal) await(text string, times int) {
	term.t.Helper()
	buffer := make([]byte, 4096)
	for strings.Count(term.seen.String(), text) < times {
		n, err := term.file.Read(buffer)
		if term.seen.Write(buffer[:n]); err != nil {
			term.t.Fatalf("no %q: %v: %q", text, err, term.seen.String())
		}
	}
}

// interrupt types Ctrl-C and returns the whole output.
func (term *terminal) interrupt() string {
	term.t.Helper()
	if _, err := term.file.WriteString("\x03"); err != nil {
		term.t.Fatal(err)
	}
	io.Copy(&term.seen, term.file) // a terminal ends with an error
	return term.seen.String()
}

func TestWatchOnATerminal(t *testing.T) {
	useCluster(t)
	cmd := child(t, "status", "--watch")
	term := startOnTerminal(t, cmd)
	term.await(goHome, 5) // one view at the start, one for each node that came up, and one after a second
	term.await("3 of 3 nodes up", 1)
	shown := term.interrupt()
	if got := exitStatus(t, cmd); got != 0 {
		t.Errorf("exit status %d", got)
	}
	before, screen, entered := strings.Cut(shown, enterScreen)
	screen, after, left := strings.Cut(screen, leaveScreen)
	if !entered || !left || before != "" {
		t.Fatalf("the screen is not entered and left: %q", shown)
	}
	if !strings.Contains(after, "1 master, 2 replicas; 3 of 3 nodes up") {
		t.Errorf("what was seen last does not stay: %q", after)
	}
	for drawing := range strings.SplitSeq(screen, goHome) {
		for line := range strings.SplitSeq(drawing, clearLine) {
			if len([]rune(strings.TrimLeft(line, "\r\n"))) > 60 {
				t.Errorf("a line is wider than the terminal: %q", line)
			}
		}
	}
}

func TestWaitingIsShownOnATerminal(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and sends nothing
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, args := range [][]string{{"wait", "--replicas", "0"}, {"exec", "-c", "select 1"}} {
		cmd := child(t, append(args, "postgres://app@"+listener.Addr().String()+"/shop?sslmode=disable")...)
		term := startOnTerminal(t, cmd)
		term.await(" s for ", 1)
		term.await(" master: "+listener.Addr().String(), 1)
		shown := term.interrupt()
		if got := exitStatus(t, cmd); got != exitInterrupted {
			t.Errorf("exit status %d", got)
		}
		if !strings.Contains(shown, "\r"+clearLine+"hasql: "+args[0]+": interrupted") {
			t.Errorf("the line is not removed: %q", shown)
		}
	}
}
