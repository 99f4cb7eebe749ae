package dsn

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The default keep-alive, which notices within seconds that the other end is gone.
const (
	defaultKeepalive      = time.Second
	defaultKeepaliveCount = 3
)

// Network configures how the sockets of a node notice that the other end is gone. It holds libpq's keepalives,
// keepalives_idle, keepalives_interval, keepalives_count and tcp_user_timeout.
//
// Without these settings, keep-alive begins after 1 s and sends 3 probes at intervals of 1 s.
type Network struct {
	keepAlive   net.KeepAliveConfig
	userTimeout time.Duration // 0: the system's
}

// Network reads the settings of the sockets and returns what is wrong with them. userTimeout is the default of
// tcp_user_timeout.
func (set Settings) Network(userTimeout time.Duration) (n Network, problems []string) {
	n = Network{
		keepAlive: net.KeepAliveConfig{
			Enable: true, Idle: defaultKeepalive, Interval: defaultKeepalive, Count: defaultKeepaliveCount,
		},
		userTimeout: userTimeout,
	}
	number := func(key string, apply func(n int)) {
		if text, given := set[key]; given {
			value, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32) // a C int, as in libpq
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s: not a whole number", Show(key, text)))
				return
			}
			apply(int(value))
		}
	}
	// libpq reads 0 (or less) as "the system's default", which net.KeepAliveConfig writes as a negative number.
	system := func(value int) int {
		if value <= 0 {
			return -1
		}
		return value
	}
	number("keepalives", func(v int) { n.keepAlive.Enable = v != 0 })
	number("keepalives_idle", func(v int) { n.keepAlive.Idle = time.Duration(system(v)) * time.Second })
	number("keepalives_interval", func(v int) { n.keepAlive.Interval = time.Duration(system(v)) * time.Second })
	number("keepalives_count", func(v int) { n.keepAlive.Count = system(v) })
	number("tcp_user_timeout", func(v int) { n.userTimeout = time.Duration(max(v, 0)) * time.Millisecond })
	return n, problems
}

func (n Network) dialer(timeout time.Duration) *net.Dialer {
	d := &net.Dialer{Timeout: timeout, KeepAliveConfig: n.keepAlive}
	if !n.keepAlive.Enable {
		d.KeepAlive = -1
	}
	if n.userTimeout > 0 {
		d.Control = func(network, _ string, conn syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			var err error
			if e := conn.Control(func(fd uintptr) { err = setUserTimeout(fd, n.userTimeout) }); e != nil {
				return e
			}
			return err
		}
	}
	return d
}

// prepare makes a connection to the host use these sockets, and the hostaddr if the DSN has one. It reads ConnectTimeout.
func (n Network) prepare(conn *pgx.ConnConfig, e Endpoint) {
	conn.DialFunc = n.dialer(conn.ConnectTimeout).DialContext
	switch {
	case e.Addr != "":
		conn.LookupFunc = lookupFixed(e.Addr)
	case isAbstract(e.Host):
		conn.LookupFunc = lookupFixed(e.Name())
		conn.DialFunc = dialAbstract(conn.DialFunc, e)
	}
}

// lookupFixed resolves every name to one address: libpq's hostaddr.
func lookupFixed(addr string) pgconn.LookupFunc {
	return func(context.Context, string) ([]string, error) { return []string{addr}, nil }
}

// dialAbstract dials the abstract socket of an endpoint, whatever address pgx makes of its name.
func dialAbstract(dial pgconn.DialFunc, e Endpoint) pgconn.DialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, "unix", fmt.Sprintf("%s/.s.PGSQL.%d", e.Host, e.Port))
	}
}
