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

// memoryDir is a file system in memory. It is used if it has at least memoryRoom bytes free: a node takes 40 MB, and its WAL up
// to 512 MB more (max_wal_size, wal_keep_size). In containers it is often very small.
const (
	memoryDir  = "/dev/shm"
	memoryRoom = 4 << 30
)

// tempDir returns the folder of clusters and of the cache of bases: $TMPDIR if that is set, else memory if there is room, else
// [os.TempDir]. Memory is much faster than a disk, because each node has a thousand small files.
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

// supported returns an error if this system lacks what the package needs.
func supported() error {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return fmt.Errorf("pgcluster: needs Linux, whose /proc shows which processes are a node's: %w", err)
	}
	return nil
}

// serverAccount returns the current user; for root it returns user postgres or, if there is none, nobody.
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

// sessionAttr starts a process as a, in a session of its own. So a Ctrl-C in the terminal reaches only this process, which then
// closes the cluster.
func sessionAttr(a account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a.assume {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// ownedBy checks that dir is a folder, not a link, and that a owns it.
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

// port is a TCP port of 127.0.0.1 that the kernel gives to no other program until it is released, even while no server listens
// on it. It is a socket that is bound and does not listen. A server that sets SO_REUSEADDR, as PostgreSQL does, may listen on
// the port. The kernel does not choose the port for another listener, nor as the source of an outgoing connection. Without
// that, a client that dials a dead node could get the dialled port as its source, and connect to itself.
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
