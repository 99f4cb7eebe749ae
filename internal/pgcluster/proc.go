package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// proc is one line of the process table.
type proc struct {
	pid, ppid int
	state     byte // proc(5): R, S, D, T stopped, Z zombie, …
}

func (p proc) stopped() bool { return p.state == 'T' || p.state == 't' }

// gone reports whether a process is dead, even if its parent has not reaped it yet. A child of a killed postmaster is a zombie
// until process 1 reaps it, which may be slow.
func (p proc) gone() bool { return p.state == 'Z' || p.state == 'X' || p.state == 'x' }

// readProc reads one process. ok is false when it has gone.
func readProc(pid int) (p proc, ok bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return proc{}, false
	}
	// "pid (name) state ppid …": the name may hold blanks and brackets, so count from its last bracket.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return proc{}, false
	}
	ppid, _ := strconv.Atoi(string(fields[1]))
	return proc{pid: pid, ppid: ppid, state: fields[0][0]}, true
}

// processTable reads all processes that are not gone.
func processTable() ([]proc, error) {
	names, err := readDirNames("/proc")
	if err != nil {
		return nil, fmt.Errorf("read the process table: %w", err)
	}
	table := make([]proc, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProc(pid); ok && !p.gone() {
			table = append(table, p)
		}
	}
	return table, nil
}

func readDirNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// processes returns the node's live processes, the postmaster last. They are the postmaster and its descendants,
// and every process that runs our postgres in the node's data directory: what is left of an earlier run has
// another parent by now.
func (n *Node) processes() ([]proc, error) {
	table, err := processTable()
	if err != nil {
		return nil, fmt.Errorf("pgcluster: %s: %w", n.name, err)
	}
	postmaster := n.pid()
	ours := make(map[int]bool)
	for _, p := range table {
		ours[p.pid] = p.pid == postmaster || n.runsHere(p.pid)
	}
	for grown := true; grown; { // children may come before their parents
		grown = false
		for _, p := range table {
			if !ours[p.pid] && ours[p.ppid] {
				ours[p.pid], grown = true, true
			}
		}
	}
	var children, master []proc
	for _, p := range table {
		switch {
		case p.pid == postmaster:
			master = append(master, p)
		case ours[p.pid]:
			children = append(children, p)
		}
	}
	return append(children, master...), nil
}

// runsHere reports whether the process is a PostgreSQL server in the node's data directory.
func (n *Node) runsHere(pid int) bool {
	dir := "/proc/" + strconv.Itoa(pid)
	if cwd, err := os.Readlink(dir + "/cwd"); err != nil || cwd != n.dataDir() {
		return false
	}
	exe, err := os.Readlink(dir + "/exe")
	if errors.Is(err, fs.ErrNotExist) {
		return true // the process is releasing its memory, which the next server must not find in use
	}
	return err == nil && exe == filepath.Join(n.cluster.pg.binDir, "postgres")
}

// tick is the time between two checks of a condition that nothing announces.
const tick = 2 * time.Millisecond

// poll calls check at once and then every [tick], until check returns true, check fails, or ctx ends.
func poll(ctx context.Context, check func() (done bool, err error)) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		if done, err := check(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
