//go:build !unix

package pgproxy

import (
	"fmt"
	"net"
)

// port is a TCP port that was free a moment ago. While the proxy does not listen there, another process may take it.
type port struct{ number int }

func reservePort() (*port, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("pgproxy: find a port: %w", err)
	}
	return &port{number: listener.Addr().(*net.TCPAddr).Port}, listener.Close()
}

func (p *port) release() {}
