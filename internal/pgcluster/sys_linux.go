package pgcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// What signals do to PostgreSQL, see "Shutting Down the Server" in its documentation.
const (
	sigKill      = syscall.SIGKILL
	sigFreeze    = syscall.SIGSTOP
	sigThaw      = syscall.SIGCONT
	sigReload    = syscall.SIGHUP
	sigSmart     = syscall.SIGTERM
	sigFast      = syscall.SIGINT
	sigImmediate = syscall.SIGQUIT
)

// send signals one process. That it has gone already is no error.
func send(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %v to process %d: %w", sig, pid, err)
	}
	return nil
}

// memoryDir is a file system in memory, and needs at least memoryRoom bytes free to be chosen: a node takes 40 MB and
// its WAL up to 512 MB more (max_wal_size, wal_keep_size). Containers often have next to nothing there.
const (
	memoryDir  = "/dev/shm"
	memoryRoom = 4 << 30
)

// tempDir is where clusters and the cache of bases lie: $TMPDIR if that is set, else memory if there is room, else
// [os.TempDir]. Making and removing a thousand small files per node is what a disk is worst at.
func tempDir() (string, error) {
	dir := os.TempDir()
	var stat syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memoryDir, &stat) == nil &&
		stat.Bavail*uint64(stat.Bsize) >= memoryRoom && syscall.Access(memoryDir, 2) == nil {
		dir = memoryDir
	}
	return filepath.EvalSymlinks(dir) // as /proc shows it
}

// killGroup kills a process started with [sessionAttr] and those of its children that stayed in its group.
func killGroup(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// supported says whether this system has what the package needs.
func supported() error {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return fmt.Errorf("pgcluster: needs Linux, whose /proc shows which processes are a node's: %w", err)
	}
	return nil
}

// serverAccount is the current user, or for root the first of postgres and nobody that exists.
func serverAccount() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{uid: uid, gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(found.Uid)
		gid, err2 := strconv.Atoi(found.Gid)
		return account{uid: uid, gid: gid, assume: true}, errors.Join(err1, err2)
	}
	return account{}, errors.New("pgcluster: PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
}

// sessionAttr starts a process as a, in a session of its own: a Ctrl-C in the terminal is meant for us, who then
// end the cluster in order.
func sessionAttr(a account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a.assume {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// ownedBy checks that dir is a true folder and a's own.
func ownedBy(dir string, a account) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != a.uid || info.Mode().Perm()&0o022 != 0 {
		return &fs.PathError{Op: "use", Path: dir, Err: fmt.Errorf("is not a folder that only user id %d may write", a.uid)}
	}
	return nil
}

// port is a TCP port of 127.0.0.1 which the kernel gives to nobody else until it is released, also while no
// server listens on it. It is a socket that is bound and does not listen: a server that sets SO_REUSEADDR, as
// PostgreSQL does, may still listen there; the kernel does not choose the port for anybody's listener, nor as the
// source of anybody's outgoing connection. The latter matters: a client that dials a dead node could otherwise be
// given the very port it dials as its source, and connect to itself.
type port struct {
	number int
	fd     int
}

// reservePort takes a free port. Release it.
func reservePort() (*port, error) {
	syscall.ForkLock.RLock() // no child may inherit the socket
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("pgcluster: reserve a port: %w", os.NewSyscallError("socket", err))
	}
	number, err := bindAnyPort(fd)
	if err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("pgcluster: reserve a port: %w", err)
	}
	return &port{number: number, fd: fd}, nil
}

func bindAnyPort(fd int) (int, error) {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	return addr.(*syscall.SockaddrInet4).Port, nil
}

func (p *port) release() { syscall.Close(p.fd) }
