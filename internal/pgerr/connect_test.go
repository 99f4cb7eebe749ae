package pgerr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/testenv"
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
	if !Is[*pgconn.ConnectError](err) {
		t.Fatalf("connected, or failed otherwise: %v", err)
	}
	return err
}

func TestConnectErrorTellsEachCauseOnce(t *testing.T) {
	testenv.Isolate(t)
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
		err := Redacted(fmt.Errorf("outside: %w", refusedBy(t, test.dsn, test.addrs, refused)))
		if err.Error() != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, err, test.want)
		}
		if test.addrs != nil && !errors.Is(err, refused) {
			t.Errorf("%s: the cause is not in the chain", test.name)
		}
	}
	if got := (&ConnectError{Err: errors.New("two\n\tlines")}).Error(); got != "two lines" {
		t.Errorf("an error of another kind: %q", got)
	}
}
