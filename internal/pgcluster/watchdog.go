package pgcluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// watchdogScript waits until its standard input ends. If it has not read "done" before, the process at the other end has died.
// Then the script kills every process that runs one of PostgreSQL's programs ($2/…; "" for $2: any program) in the cluster's
// folder ($1/…), and removes the folder. It repeats that until no process is left, because a postmaster whose children die
// starts others. SIGKILL also ends frozen processes. Shared memory of killed servers is removed where ipcrm exists.
const watchdogScript = `
read -r word
[ "$word" = done ] && exit 0
left=yes
while [ -n "$left" ]; do
	left=
	for p in /proc/[0-9]*; do
		case $(readlink "$p/cwd") in "$1"/*) ;; *) continue ;; esac
		case $(readlink "$p/exe") in "$2"/*) ;; *) continue ;; esac
		kill -s KILL "${p#/proc/}" && left=yes
	done
done
for pidfile in "$1"/*/data/postmaster.pid; do
	[ -e "$pidfile" ] || continue
	set -- "$1" "$2" $(sed -n 7p "$pidfile")
	[ -n "$4" ] && ipcrm -m "$4"
done
rm -rf "$1"
`

// watchdog cleans up after a process that died without closing its cluster.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File // the only writing end; the kernel closes it when this process dies
}

// startWatchdog starts a watchdog for a cluster's folder and the programs of binDir that run there. It inherits only the pipe. It
// runs as the server's account and in a session of its own, so that neither Ctrl-C nor a closed terminal ends it.
func startWatchdog(dir, binDir string, a account) (*watchdog, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pgcluster: watchdog: %w", err)
	}
	defer read.Close()
	cmd := exec.Command("sh", "-c", watchdogScript, "hasql-pgcluster-watchdog", dir, binDir)
	cmd.Dir = "/"
	cmd.Stdin = read
	cmd.SysProcAttr = sessionAttr(a)
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, fmt.Errorf("pgcluster: watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: write}, nil
}

// stop dismisses the watchdog and waits for its end.
func (w *watchdog) stop() error {
	_, err := w.pipe.WriteString("done\n")
	err = errors.Join(err, w.pipe.Close(), w.cmd.Wait())
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return nil
}
