package hasql

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// networkConfig is how the sockets of a node notice that nobody is at the other end: libpq's keepalives,
// keepalives_idle, keepalives_interval, keepalives_count and tcp_user_timeout.
type networkConfig struct {
	keepAlive   net.KeepAliveConfig
	userTimeout time.Duration // 0: the system's
}

func parseNetwork(set settings, downTimeout time.Duration) (n networkConfig, problems []string) {
	n = networkConfig{
		keepAlive: net.KeepAliveConfig{
			Enable: true, Idle: defaultKeepalive, Interval: defaultKeepalive, Count: defaultKeepaliveCount,
		},
		userTimeout: downTimeout,
	}
	number := func(key string, apply func(n int)) {
		if text, given := set[key]; given {
			value, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32) // a C int, as in libpq
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s: not a whole number", setting(key, text)))
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

func (n networkConfig) dialer(timeout time.Duration) *net.Dialer {
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

// lookupFixed resolves every name to one address: libpq's hostaddr.
func lookupFixed(addr string) pgconn.LookupFunc {
	return func(context.Context, string) ([]string, error) { return []string{addr}, nil }
}

// dialAbstract dials the abstract socket of an endpoint, whatever address pgx makes of its name.
func dialAbstract(dial pgconn.DialFunc, e endpoint) pgconn.DialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, "unix", fmt.Sprintf("%s/.s.PGSQL.%d", e.host, e.port))
	}
}

func otherHost(pool *pgxpool.Config) func(*pgconn.FallbackConfig) bool {
	return func(f *pgconn.FallbackConfig) bool {
		return f.Host != pool.ConnConfig.Host || f.Port != pool.ConnConfig.Port
	}
}
