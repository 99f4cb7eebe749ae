package pgfake

import (
	"errors"
	"io"
	"net"
	"time"
)

// addr is a host:port name; the fake has no IP addresses. Dialling the
// RemoteAddr of a connection reaches the same node, which is how pgx sends a
// CancelRequest.
type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

// conn is the client's end of a link.
type conn struct {
	link          *link
	local, remote addr
}

var _ net.Conn = (*conn)(nil)

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.link.clientRead(b)
	return n, c.wrap("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.link.clientWrite(b)
	return n, c.wrap("write", err)
}

func (c *conn) Close() error         { return c.wrap("close", c.link.clientClose()) }
func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return c.wrap("set", c.link.setDeadlines(&t, &t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.wrap("set", c.link.setDeadlines(&t, nil))
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.wrap("set", c.link.setDeadlines(nil, &t))
}

// wrap dresses an error as package net does: io.EOF bare, the rest in an OpError.
func (c *conn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
