package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Sandbox is a temporary folder for programs that run beside a cluster or start PostgreSQL themselves, such as poolers
// and Patroni. They run as a cluster's servers do: under an account that is not root, on ports that nobody else gets,
// and with a watchdog that leaves nothing of them behind, however this process ends. Its methods may be called from
// several goroutines.
type Sandbox struct {
	dir     string
	account account
	watch   *watchdog

	reaping sync.WaitGroup

	mu    sync.Mutex
	ports []*port

	closing  sync.Once
	closeErr error
}

// NewSandbox makes an empty one. [Sandbox.Close] ends it.
func NewSandbox() (*Sandbox, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	dir, err := makeDir(account)
	if err != nil {
		return nil, err
	}
	watch, err := startWatchdog(dir, "", account)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Sandbox{dir: dir, account: account, watch: watch}, nil
}

// Dir returns the folder, which [Sandbox.Close] removes.
func (s *Sandbox) Dir() string { return s.dir }

// Reserve returns a port of 127.0.0.1 that nobody else gets before [Sandbox.Close]. A server that sets SO_REUSEADDR, as
// nearly all do, may listen there.
func (s *Sandbox) Reserve() (int, error) {
	p, err := reservePort()
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = append(s.ports, p)
	return p.number, nil
}

// Write writes a file, its path relative to the folder, and makes the folder that it lies in. A program that runs as the
// account may read it, and nobody else.
func (s *Sandbox) Write(path, content string) error {
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("pgcluster: %w", err)
	}
	if err := writeFor(s.account, filepath.Join(s.dir, path), content); err != nil {
		return fmt.Errorf("pgcluster: %w", err)
	}
	return nil
}

func (s *Sandbox) mkdir(dir string) error {
	err := mkdirFor(s.account, filepath.Join(s.dir, dir))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Process is a program that runs in a [Sandbox], or did.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed once it has ended and is reaped
}

// Exited is closed once the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Start starts a program with dir, relative to the folder, for its working folder. What it writes goes to the file log
// there. Of the environment it gets PATH alone, and dir for its $HOME.
func (s *Sandbox) Start(dir, program string, args ...string) (*Process, error) {
	if err := s.mkdir(dir); err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	log, err := os.OpenFile(s.logFile(dir), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	defer log.Close() // the program has its own
	cmd := exec.Command(program, args...)
	cmd.Dir = filepath.Join(s.dir, dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = sessionAttr(s.account)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	s.reaping.Go(func() {
		defer close(p.exited)
		_ = cmd.Wait() // the exit status does not matter
	})
	return p, nil
}

func (s *Sandbox) logFile(dir string) string { return filepath.Join(s.dir, dir, "log") }

// Log returns the end of what the programs in dir have written.
func (s *Sandbox) Log(dir string) string {
	content, err := os.ReadFile(s.logFile(dir))
	if err != nil {
		return err.Error()
	}
	return lastLines(string(content))
}

// Kill ends, by SIGKILL, every process that has dir, relative to the folder, or a folder in it for its working folder,
// whoever started it, and returns once there is none. PostgreSQL's is its data directory.
func (s *Sandbox) Kill(ctx context.Context, dir string) error {
	within := filepath.Join(s.dir, dir)
	err := poll(ctx, func() (bool, error) {
		table, err := processTable()
		if err != nil {
			return false, err
		}
		table = slices.DeleteFunc(table, func(p proc) bool {
			cwd, err := os.Readlink("/proc/" + strconv.Itoa(p.pid) + "/cwd")
			return err != nil || cwd != within && !strings.HasPrefix(cwd, within+"/")
		})
		return len(table) == 0, signalAll(table, sigKill)
	})
	if err != nil {
		return fmt.Errorf("pgcluster: kill what runs in %s: %w", within, err)
	}
	return nil
}

// Close ends every process that has its working folder in the sandbox, and removes the sandbox. The watchdog does that, as it
// would if this process died. Only the first call does anything; every call returns its error.
func (s *Sandbox) Close() error {
	s.closing.Do(func() {
		err := errors.Join(s.watch.pipe.Close(), s.watch.cmd.Wait())
		s.reaping.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range s.ports {
			p.release()
		}
		if err != nil {
			s.closeErr = fmt.Errorf("pgcluster: close a sandbox: %w", err)
		}
	})
	return s.closeErr
}

// FindProgram returns where a program is: in PATH, or where administrators' programs are, which may not be in PATH.
func FindProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	return path, err
}
