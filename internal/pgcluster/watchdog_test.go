package pgcluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

// crashed is what the child of TestCrashLeavesNothing tells before it is killed.
type crashed struct {
	Dirs []string
	PIDs []int
}

// crashChild starts a cluster, one node of it frozen, and a program in a sandbox, tells of it, and waits to be killed.
func crashChild() {
	cluster, err := Start(context.Background(), Options{Replicas: 2})
	if err == nil {
		err = cluster.Nodes()[1].Freeze()
	}
	box, boxErr := NewSandbox()
	err = errors.Join(err, boxErr)
	program, boxErr := box.Start("it", "sleep", "3600")
	err = errors.Join(err, boxErr)
	told := crashed{Dirs: []string{cluster.Dir(), box.Dir()}, PIDs: []int{program.cmd.Process.Pid}}
	for _, n := range cluster.Nodes() {
		processes, scanErr := n.processes()
		err = errors.Join(err, scanErr)
		for _, p := range processes {
			told.PIDs = append(told.PIDs, p.pid)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(told)
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // never comes
}

func TestCrashLeavesNothing(t *testing.T) {
	t.Parallel()
	if _, err := FindBinDir(); err != nil {
		startCluster(t, Options{}) // skips or fails
	}
	child := exec.CommandContext(testContext(t), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"=1")
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe() // kept open
	must(t, err)
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	var told crashed
	must(t, json.NewDecoder(stdout).Decode(&told))
	if len(told.PIDs) < 13 {
		t.Errorf("only %d processes: %v", len(told.PIDs), told.PIDs)
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // killed

	for _, dir := range told.Dirs {
		must(t, poll(testContext(t), func() (bool, error) {
			_, err := os.Stat(dir)
			if err == nil {
				return false, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
			return true, nil
		}))
	}
	for _, pid := range told.PIDs {
		if p, ok := readProc(pid); ok && !p.gone() {
			t.Errorf("process %d is alive", pid)
		}
	}
}
