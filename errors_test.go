package hasql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/pgfake"
)

// refusedBy is pgx's error of a connection attempt with this DSN, whose names have these addresses and whose dials end so.
func refusedBy(t *testing.T, dsn string, addrs []string, dialed error) error {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) {
		if addrs == nil {
			return nil, &net.DNSError{Err: "no such host", Name: host, Server: "192.0.2.1:53", IsNotFound: true}
		}
		return addrs, nil
	}
	config.DialFunc = func(_ context.Context, network, addr string) (net.Conn, error) {
		remote, _ := net.ResolveTCPAddr("tcp", addr)
		if network == "unix" {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: &net.UnixAddr{Name: addr}, Err: dialed}
		}
		return nil, &net.OpError{Op: "dial", Net: network, Addr: remote, Err: dialed}
	}
	_, err = pgx.ConnectConfig(t.Context(), config)
	if !is[*pgconn.ConnectError](err) {
		t.Fatalf("connected, or failed otherwise: %v", err)
	}
	return err
}

func TestConnectErrorsTellEachCauseOnce(t *testing.T) {
	isolate(t)
	refused := errors.New("connect: connection refused")
	for _, test := range []struct {
		name, dsn string
		addrs     []string
		want      string
	}{
		{"an address", "postgres://u@192.0.2.7:5433/d?sslmode=disable", []string{"192.0.2.7"}, "dial error: connect: connection refused"},
		{"with TLS and without", "postgres://u@192.0.2.7:5433/d", []string{"192.0.2.7"}, "dial error: connect: connection refused"},
		{"IPv6", "postgres://u@[2001:db8::7]:5433/d", []string{"2001:db8::7"}, "dial error: connect: connection refused"},
		{"a name", "postgres://u@pg1/d", []string{"192.0.2.7"}, "192.0.2.7:5432: dial error: connect: connection refused"},
		{
			"a name of two addresses", "postgres://u@pg1/d",
			[]string{"2001:db8::7", "192.0.2.7"},
			"[2001:db8::7]:5432: dial error: connect: connection refused, then 192.0.2.7:5432: dial error: connect: connection refused",
		},
		{"a name that is unknown", "postgres://u@pg1/d", nil, "lookup on 192.0.2.1:53: no such host"},
		{"a socket", "host=/run/pg user=u", nil, "/run/pg/.s.PGSQL.5432: dial error: connect: connection refused"},
	} {
		err := redacted(fmt.Errorf("outside: %w", refusedBy(t, test.dsn, test.addrs, refused)))
		if err.Error() != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, err, test.want)
		}
		if test.addrs != nil && !errors.Is(err, refused) {
			t.Errorf("%s: the cause is not in the chain", test.name)
		}
	}
	if got := (&connectError{err: errors.New("two\n\tlines")}).Error(); got != "two lines" {
		t.Errorf("an error of another kind: %q", got)
	}
}

func TestNoNodeErrorTellsEachCauseOnce(t *testing.T) {
	isolate(t)
	refused := redacted(refusedBy(t, "postgres://u@pg1/d", []string{"192.0.2.7"}, errors.New("connection refused")))
	const cause = "192.0.2.7:5432: dial error: connection refused"
	for _, test := range []struct {
		tried error
		want  string
	}{
		{nil, "pg1:5432 down: " + cause},
		{refused, "pg1:5432 down: " + cause},
		{&dialBackoffError{refused}, "pg1:5432 down: " + cause},
		{errors.New("too many clients"), "pg1:5432 down: " + cause + ": too many clients"},
	} {
		err := &NoNodeError{
			Wanted: "master", Waited: 1500 * time.Millisecond, cause: context.DeadlineExceeded,
			Nodes: []NodeState{{Name: "pg1:5432", Status: StatusDown, Cause: refused}},
			tried: map[string]error{"pg1:5432": test.tried},
		}
		if want := "hasql: no master within 1.5s (context deadline exceeded); " + test.want; err.Error() != want {
			t.Errorf("\ngot  %v\nwant %s", err, want)
		}
	}
}

func TestReadyTellsWhatItWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, name := range []string{"pg1", "pg2", "pg3"} {
			c.Node(name).Kill()
		}
		pm := open(t, c)
		ended, end := context.WithCancel(t.Context())
		end()
		for _, test := range []struct {
			masters, replicas int
			want              string
		}{
			{1, 0, "no master"},
			{0, 1, "no replica"},
			{1, 1, "no set of 1 master and 1 replica"},
			{0, 2, "no set of 0 masters and 2 replicas"},
			{-1, -1, "no full set of nodes"},
		} {
			if err := pm.Ready(ended, test.masters, test.replicas); !strings.HasPrefix(err.Error(), "hasql: "+test.want+" and no time to wait (context canceled); ") {
				t.Errorf("Ready(%d, %d): %v", test.masters, test.replicas, err)
			}
		}
	})
}

func TestNodesPrintAsOneLine(t *testing.T) {
	n := NodeState{Name: "pg1:5432", Status: StatusUp, Role: RoleReplica, LagKnown: true, LagTime: time.Second, load: &nodeLoad{limit: 4}}
	const want = "pg1:5432 up replica, 0 of 4 connections in use, 1s behind"
	for _, v := range []any{n, &n, Candidate{NodeState: &n}, NodeStat{NodeState: n}, &NodeStat{NodeState: n}} {
		for _, format := range []string{"%v", "%s", "%+v"} {
			if got := fmt.Sprintf(format, v); got != want {
				t.Errorf("%s of %T: %s", format, v, got)
			}
		}
	}
	if got := fmt.Sprint([]NodeState{n, n}); got != "["+want+" "+want+"]" {
		t.Errorf("several: %s", got)
	}
}
