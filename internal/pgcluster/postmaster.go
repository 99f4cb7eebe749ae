package pgcluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// postmaster is one run of a node's server.
type postmaster struct {
	cmd     *exec.Cmd
	logFrom int64         // where in the log this run begins
	exited  chan struct{} // closed once it has ended and is reaped; cmd.ProcessState is valid then
}

// launch starts the server process and does not wait until it accepts connections. A goroutine reaps the process and ends with
// it, at the latest in [Cluster.Close].
func (n *Node) launch() (*postmaster, error) {
	pg := n.cluster.pg
	log, err := os.OpenFile(n.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the server has its own
	if err := pg.account.own(n.logFile()); err != nil {
		return nil, err
	}
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(pg.binDir, "postgres"), "-D", n.dataDir(), "-c", "config_file="+n.confFile())
	cmd.Dir = n.dataDir()
	cmd.Env = pg.environ("")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = sessionAttr(pg.account)
	n.host.Do(func() { err = cmd.Start() })
	if err != nil {
		return nil, err
	}
	p := &postmaster{cmd: cmd, logFrom: info.Size(), exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
	}()
	return p, nil
}

func (p *postmaster) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal signals the postmaster unless it has ended.
func (p *postmaster) signal(sig syscall.Signal) error {
	if !p.running() {
		return nil
	}
	return send(p.cmd.Process.Pid, sig)
}
