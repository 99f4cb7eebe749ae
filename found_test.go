package hasql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/testenv"
)

// seen is what of a configuration is the host's own.
func seen(c *pgx.ConnConfig) string {
	names := func(t *tls.Config) string {
		if t == nil {
			return "plain"
		}
		name := t.ServerName
		if net.ParseIP(name) != nil && t.InsecureSkipVerify {
			name = "" // it is neither asked for nor compared
		}
		return fmt.Sprintf("TLS %q %v", name, t.InsecureSkipVerify)
	}
	list := []string{fmt.Sprintf("%s:%d %s %s", c.Host, c.Port, c.Password, names(c.TLSConfig))}
	for _, f := range c.Fallbacks {
		list = append(list, fmt.Sprintf("%s:%d %s", f.Host, f.Port, names(f.TLSConfig)))
	}
	return strings.Join(list, ", ")
}

// TestFoundNodeIsAsIfTheDSNHadIt compares nodes that are made after the first one of the DSN with what a DSN of their own leads to.
func TestFoundNodeIsAsIfTheDSNHadIt(t *testing.T) {
	home := testenv.Isolate(t)
	passwords := "pg1:5432:*:*:one\npg9:6432:*:*:nine\n10.0.0.9:5432:*:*:address\n"
	if err := os.WriteFile(filepath.Join(home, ".pgpass"), []byte(passwords), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sslmode := range []string{"disable", "allow", "prefer", "require", "verify-full", "require sslsni=0", "verify-full sslsni=0"} {
		for _, known := range []string{"pg1", "10.0.0.1", "/tmp", "@abstract", "pg1 hostaddr=10.0.0.1"} {
			for _, e := range []Endpoint{{Host: "pg9", Port: 6432}, {Host: "10.0.0.9", Port: 5432}, {Host: "pg1", Port: 5432, Addr: netip.MustParseAddr("10.0.0.7")}} {
				name := fmt.Sprintf("%s, %s, %s", sslmode, known, e.Host)
				of := func(host string) *Config {
					c, err := ParseConfig("user=app dbname=shop sslmode=" + sslmode + " host=" + host)
					if err != nil {
						t.Fatal(err)
					}
					return c
				}
				dsn := fmt.Sprintf("%s port=%d", e.Host, e.Port)
				if e.Addr.IsValid() {
					dsn += " hostaddr=" + e.Addr.String()
				}
				want := of(dsn).Nodes[0].Pool.ConnConfig
				config, err := of(known).listedNodeOf(e).config()
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				got := config.Pool.ConnConfig
				if seen(got) != seen(want) {
					t.Errorf("%s:\ngot  %s\nwant %s", name, seen(got), seen(want))
				}
				if e.Addr.IsValid() || known != "pg1" && known != "10.0.0.1" {
					// One that looks up nothing, or the network: ours is either.
					addrs, err := got.LookupFunc(t.Context(), "127.0.0.1")
					wanted, err2 := want.LookupFunc(t.Context(), "127.0.0.1")
					if err != nil || err2 != nil || addrs[0] != wanted[0] {
						t.Errorf("%s: it dials %v, %v and not %v", name, addrs, err, wanted)
					}
				}
			}
		}
	}
}

func TestFoundNodeHasWhatTheUserHasEdited(t *testing.T) {
	testenv.Isolate(t)
	config, err := ParseConfig("host=pg1,pg2 user=app password=x sslmode=prefer pool_max_conns=7 hasql_zones=a,b")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for i := range config.Nodes {
		pool := config.Nodes[i].Pool
		pool.MaxConns += int32(i)
		pool.ConnConfig.TLSConfig = &tls.Config{RootCAs: roots, ServerName: pool.ConnConfig.Host}
		pool.ConnConfig.Fallbacks = nil // no plain text
		pool.ConnConfig.Password = "edited"
		pool.ConnConfig.RuntimeParams["search_path"] = "shop"
		pool.AfterConnect = func(context.Context, *pgx.Conn) error { return nil }
	}
	for _, test := range []struct {
		found Endpoint
		max   int32
		zone  string
	}{
		{Endpoint{Name: "n", Host: "pg9", Port: 5432}, 7, ""},
		{Endpoint{Name: "n", Host: "pg2", Port: 5432, Addr: netip.MustParseAddr("10.0.0.2")}, 8, "b"},
		{Endpoint{Name: "n", Host: "pg2", Port: 5432, Zone: "c"}, 8, "c"},
	} {
		n, err := config.listedNodeOf(test.found).config()
		if err != nil {
			t.Fatal(err)
		}
		conn := n.Pool.ConnConfig
		if n.Name != "n" || n.Zone != test.zone || n.Pool.MaxConns != test.max || n.Pool.AfterConnect == nil || conn.Password != "edited" ||
			conn.RuntimeParams["search_path"] != "shop" || len(conn.Fallbacks) != 0 {
			t.Errorf("%v: %+v", test.found, n)
		}
		if conn.TLSConfig.ServerName != test.found.Host || conn.TLSConfig.RootCAs != roots || conn.TLSConfig.InsecureSkipVerify {
			t.Errorf("%v: TLS is %+v", test.found, conn.TLSConfig)
		}
	}
	if conn := config.Nodes[0].Pool.ConnConfig; conn.TLSConfig.ServerName != "pg1" || conn.Host != "pg1" {
		t.Error("the node that it was made after is another now")
	}
}

// TestServerIsKnownByWhatIsDialled has pairs of configurations.
func TestServerIsKnownByWhatIsDialled(t *testing.T) {
	addr := netip.MustParseAddr
	one := newAddress("pg1", 5432, netip.Addr{})
	for _, other := range []address{newAddress("PG1", 5432, netip.Addr{})} {
		if other != one {
			t.Errorf("%v is another server", other)
		}
	}
	for _, other := range []address{
		newAddress("pg1", 5433, netip.Addr{}), newAddress("pg2", 5432, netip.Addr{}), newAddress("pg1", 5432, addr("10.0.0.1")),
	} {
		if other == one {
			t.Errorf("%v is the same server", other)
		}
	}
	if newAddress("10.0.0.1", 5432, addr("::ffff:10.0.0.1")) != newAddress("10.0.0.1", 5432, netip.Addr{}) {
		t.Error("an address is another server than itself")
	}
}
