//go:build unix

package pgproxy

import (
	"fmt"
	"os"
	"syscall"
)

// port is a reserved TCP port of 127.0.0.1. The reservation is a socket that is bound and does not listen, so the kernel gives
// the port to no other process, also while the proxy refuses clients. A listening socket can be bound to the same port,
// because both sockets set SO_REUSEADDR.
type port struct {
	number int
	fd     int
}

// reservePort reserves a free port. The caller must release it.
func reservePort() (*port, error) {
	syscall.ForkLock.RLock() // so that no child inherits the socket
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("pgproxy: reserve a port: %w", os.NewSyscallError("socket", err))
	}
	number, err := bindAnyPort(fd)
	if err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("pgproxy: reserve a port: %w", err)
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
