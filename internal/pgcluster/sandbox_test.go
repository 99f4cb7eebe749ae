package pgcluster

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestSandboxEndsWhatRunsInIt(t *testing.T) {
	t.Parallel()
	box, err := NewSandbox()
	must(t, err)
	t.Cleanup(func() { must(t, box.Close()) })
	must(t, box.Write("one/script", "sleep 3600 & echo $! $(id -u); cd data; exec sleep 3600\n"))
	must(t, box.Write("one/data/file", ""))
	one, err := box.Start("one", "sh", "script")
	must(t, err)
	other, err := box.Start("other", "sleep", "3600")
	must(t, err)

	var told []string // the child's process id, and whose it is
	must(t, poll(testContext(t), func() (bool, error) {
		told = strings.Fields(box.Log("one"))
		return len(told) == 2, nil
	}))
	if told[1] == "0" {
		t.Error("the program runs as root")
	}
	must(t, box.Kill(testContext(t), "one"))
	<-one.Exited()
	child, err := strconv.Atoi(told[0])
	must(t, err)
	if p, ok := readProc(child); ok && !p.gone() {
		t.Error("the program's child is alive")
	}
	select {
	case <-other.Exited():
		t.Error("a program in another folder was killed too")
	default:
	}

	must(t, box.Close())
	<-other.Exited()
	if _, err := os.Stat(box.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestSandboxReservesPorts(t *testing.T) {
	t.Parallel()
	box, err := NewSandbox()
	must(t, err)
	defer box.Close()
	port, err := box.Reserve()
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	must(t, err)
	must(t, listener.Close())
}
