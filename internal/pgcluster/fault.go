package pgcluster

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// faultTimeout limits how long the kernel may take to end or stop processes, which usually takes microseconds. Only a process
// in an uninterruptible system call, as on a disk that hangs, takes longer.
const faultTimeout = 30 * time.Second

// Kill is power loss: SIGKILL ends the postmaster and all its children at once, frozen or not. Kill returns when they are gone.
// The kernel closes their connections, so clients see a reset or an end, not silence; for silence see [Node.Freeze]. On a node
// that does not run, Kill ends the processes that [Node.KillPostmaster] left.
func (n *Node) Kill() error {
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	defer cancel()
	if n.Running() {
		// A stopped postmaster does not fork, and does not log the death of its children.
		if err := n.stopPostmaster(ctx); err != nil {
			return err
		}
	}
	err := poll(ctx, func() (bool, error) {
		processes, err := n.processes()
		if err != nil {
			return false, err
		}
		return len(processes) == 0, signalAll(processes, sigKill)
	})
	if err != nil {
		return n.errorf("kill: %w", err)
	}
	if p := n.server.Load(); p != nil {
		<-p.exited
	}
	n.frozen.Store(false)
	return nil
}

// KillPostmaster ends only the postmaster, by SIGKILL, and returns when it is gone. Its children notice that and end by
// themselves: idle ones at once, busy ones after their query. Until then they serve their clients, and no server can start on
// the data directory.
func (n *Node) KillPostmaster() error {
	p := n.server.Load()
	if p == nil || !p.running() {
		return n.errorf("kill postmaster: it is not running")
	}
	if err := p.signal(sigKill); err != nil {
		return n.errorf("kill postmaster: %w", err)
	}
	<-p.exited
	n.frozen.Store(false)
	return nil
}

// KillBackend ends one of the node's server processes by SIGKILL. pid is the result of pg_backend_pid() there. The postmaster
// takes that for a crash: it ends all other connections too, and recovers. Running stays true.
func (n *Node) KillBackend(pid int) error {
	processes, err := n.processes()
	if err != nil {
		return err
	}
	for _, p := range processes {
		if p.pid == pid && pid != n.pid() {
			return send(pid, sigKill)
		}
	}
	return n.errorf("kill backend: process %d is not one of its children", pid)
}

// Freeze is a machine that hangs: it stops every process of the node by SIGSTOP and returns when all of them have stopped. The
// kernel still accepts connections and acknowledges received data, but nothing answers. [Node.Thaw] ends it.
func (n *Node) Freeze() error {
	if !n.Running() {
		return n.errorf("freeze: it is not running")
	}
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	defer cancel()
	n.frozen.Store(true)
	if err := n.stopPostmaster(ctx); err != nil {
		return err
	}
	err := poll(ctx, func() (bool, error) {
		processes, err := n.processes()
		if err != nil {
			return false, err
		}
		for _, p := range processes {
			if p.stopped() {
				continue
			}
			return false, signalAll(processes, sigFreeze)
		}
		return true, nil
	})
	if err != nil {
		return n.errorf("freeze: %w", err)
	}
	return nil
}

// Thaw continues a frozen node (SIGCONT). The node answers the requests that it received meanwhile. On a node that is not
// frozen, Thaw does nothing.
func (n *Node) Thaw() error {
	processes, err := n.processes()
	if err != nil {
		return err
	}
	// The postmaster comes last. Until then no new processes can start.
	if err := signalAll(processes, sigThaw); err != nil {
		return n.errorf("thaw: %w", err)
	}
	n.frozen.Store(false)
	return nil
}

// StopMode is how [Node.Stop] ends a server, as in "Shutting Down the Server" of PostgreSQL's documentation.
type StopMode int

const (
	// StopFast disconnects the clients (57P01), sends all WAL to the standbys and ends after a checkpoint. It waits for a
	// standby that hangs, up to wal_sender_timeout (60 s).
	StopFast StopMode = iota
	// StopImmediate disconnects the clients (57P02) and ends at once; the next start recovers.
	StopImmediate
	// StopSmart refuses new clients and waits until all present ones have left.
	StopSmart
)

// String returns the mode's name, fast, immediate or smart.
func (m StopMode) String() string {
	switch m {
	case StopFast:
		return "fast"
	case StopImmediate:
		return "immediate"
	case StopSmart:
		return "smart"
	}
	return fmt.Sprintf("StopMode(%d)", int(m))
}

func (m StopMode) signal() (syscall.Signal, error) {
	switch m {
	case StopFast:
		return sigFast, nil
	case StopImmediate:
		return sigImmediate, nil
	case StopSmart:
		return sigSmart, nil
	}
	return 0, fmt.Errorf("there is no %v", m)
}

// Stop shuts a running node down and blocks until it has ended. It thaws a frozen node first. If ctx ends before, Stop fails and
// the shutdown goes on. A second Stop with a harder mode, or [Node.Kill], ends the node sooner.
func (n *Node) Stop(ctx context.Context, mode StopMode) error {
	p := n.server.Load()
	if p == nil || !p.running() {
		return n.errorf("stop: it is not running")
	}
	sig, err := mode.signal()
	if err == nil && n.frozen.Load() {
		err = n.Thaw()
	}
	if err == nil {
		err = p.signal(sig)
	}
	if err != nil {
		return n.errorf("stop: %w", err)
	}
	select {
	case <-p.exited:
		return n.waitGone(ctx)
	case <-ctx.Done():
		return n.serverError("stop "+mode.String(), context.Cause(ctx))
	}
}

// stopPostmaster freezes the postmaster and returns when it has stopped or ended.
func (n *Node) stopPostmaster(ctx context.Context) error {
	p := n.server.Load()
	if err := p.signal(sigFreeze); err != nil {
		return n.errorf("%w", err)
	}
	err := poll(ctx, func() (bool, error) {
		seen, ok := readProc(p.cmd.Process.Pid)
		return !ok || seen.gone() || seen.stopped(), nil
	})
	if err != nil {
		return n.errorf("stop the postmaster: %w", err)
	}
	return nil
}

// endTimeout is how long a server may take to end by itself before it is killed.
const endTimeout = 5 * time.Second

// end ends the node for good. It tries an immediate shutdown first, because a server that ends by itself releases its shared
// memory. It removes the shared memory of a server that was killed.
func (n *Node) end() error {
	if n.Running() {
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		_ = n.Stop(ctx, StopImmediate) // Kill ends what is left
	}
	if err := n.Kill(); err != nil {
		return err
	}
	n.removeSharedMemory()
	return nil
}

// removeSharedMemory removes the System V segment that a killed server left. It has only 56 bytes, but the whole machine may
// have only 4096 segments. Line 7 of the lock file holds its key and id. Without ipcrm (util-linux) the segment stays.
func (n *Node) removeSharedMemory() {
	lines := n.lockFile()
	if len(lines) < 7 {
		return // the server ended by itself, or was killed before it had a segment
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return
	}
	cmd := exec.Command("ipcrm", "-m", fields[1])
	cmd.SysProcAttr = sessionAttr(n.cluster.pg.account)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.cluster.opts.logf("%s: shared memory %s was not removed: %v %s", n.name, fields[1], err, out)
	}
}

// signalAll signals processes in their order.
func signalAll(processes []proc, sig syscall.Signal) error {
	for _, p := range processes {
		if err := send(p.pid, sig); err != nil {
			return err
		}
	}
	return nil
}
