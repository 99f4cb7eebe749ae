package hasql

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pghasql/hasql/internal/dsn"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/testenv"
)

func names(c *Config) string {
	var list []string
	for _, n := range c.Nodes {
		list = append(list, n.Name)
	}
	return strings.Join(list, " ")
}

func TestParseConfigFindsHosts(t *testing.T) {
	for _, test := range []struct{ name, dsn, want string }{
		{"one", "postgres://u@h1/db", "h1:5432"},
		{"url", "postgres://u@h1:1,h2:2,h3:3/db", "h1:1 h2:2 h3:3"},
		{"postgresql scheme", "postgresql://u@h1,h2/db", "h1:5432 h2:5432"},
		{"keyword value", "host=h1,h2 user=u", "h1:5432 h2:5432"},
		{"one port for all", "host=h1,h2 port=6432 user=u", "h1:6432 h2:6432"},
		{"ports by place", "host=h1,h2 port=1,2 user=u", "h1:1 h2:2"},
		{"empty port is the default", "host=h1,h2 port=,2 user=u", "h1:5432 h2:2"},
		{"port of the last alone, as libpq", "postgres://u@h1,h2:6432/db", "h1:5432 h2:6432"},
		{"duplicates", "postgres://u@h1,h2,h1:5432/db", "h1:5432 h2:5432"},
		{"IPv6", "postgres://u@[::1]:1,[fe80::2]/db", "[::1]:1 [fe80::2]:5432"},
		{"IPv6 keyword", "host=::1,::2 user=u", "[::1]:5432 [::2]:5432"},
		{"socket", "host=/tmp,/run/pg port=1,2 user=u", "/tmp:1 /run/pg:2"},
		{"socket in a URL", "postgres://u@%2Ftmp,h2/db", "/tmp:5432 h2:5432"},
		{"an empty value at the end", "host=h1,h2 user=u password=", "h1:5432 h2:5432"},
		{"an empty value at the end, with blanks", "host=h1,h2 user=u password = ", "h1:5432 h2:5432"},
		{"an equals sign at the end of a value", "host=h1,h2 user=u password=abc=", "h1:5432 h2:5432"},
		{"an escaped blank before it", `host=h1,h2 user=u password=a\ b=`, "h1:5432 h2:5432"},
		{"an equals sign at the end of a value behind a blank", "host=h1,h2 user= u=", "h1:5432 h2:5432"},
		{"an empty value behind a quoted one", `host='h1,h2\'' user= u= password='a b'sslmode=disable dbname=`, "h1:5432 h2':5432"},
		{"abstract socket", "host=@pg,h2 port=1,2 user=u", "@pg:1 h2:2"},
		{"abstract socket in a URL", "postgres://u@%40pg,h2/db", "@pg:5432 h2:5432"},
		{"abstract socket in the query", "postgres://u@/db?host=@pg,h2", "@pg:5432 h2:5432"},
		{"hostaddr beats an abstract socket", "host=@pg,h2 hostaddr=10.0.0.1,10.0.0.2 user=u", "10.0.0.1:5432 h2:5432"},
		{"hosts in the query", "postgres://u@/db?host=h1,h2&port=1,2", "h1:1 h2:2"},
		{"query wins", "postgres://u@h0:9/db?host=h1,h2&port=1,2", "h1:1 h2:2"},
		{"percent", "postgres://u@h%31,h2/db", "h1:5432 h2:5432"},
		{"quotes and blanks", `  host = 'h1,h2'   user='it\'s me' `, "h1:5432 h2:5432"},
		{"trailing backslash", `user=u host=h1,h2\`, "h1:5432 h2:5432"},
		{"two trailing backslashes", `host=h1,h2 user=u\\`, "h1:5432 h2:5432"},
		{"question mark in the brackets of a host", "postgres://u@[::1]:1/db?connect_timeout=3", "[::1]:1"},
		{"at sign behind the path", "postgres://u@h1/db?application_name=a%40b", "h1:5432"},
		{"no path but a query", "postgres://u@h1,h2?connect_timeout=3", "h1:5432 h2:5432"},
		{"hostaddr alone", "hostaddr=10.0.0.1,10.0.0.2 port=1,2 user=u", "10.0.0.1:1 10.0.0.2:2"},
		{"hostaddr with host", "host=h1,h2 hostaddr=10.0.0.1,10.0.0.2 user=u", "h1:5432 h2:5432"},
		{"hostaddr with a zone", "host=h1 hostaddr=fe80::1%lo user=u", "h1:5432"},
		{"two addresses of one name", "host=h1,h1,h1 hostaddr=10.0.0.1,10.0.0.2,10.0.0.1 user=u", "h1:5432 h1:5432 (10.0.0.2)"},
		{"an empty query", "postgres://u@h1,h2/db?", "h1:5432 h2:5432"},
		{"an ampersand at the end", "postgres://u@h1,h2/db?connect_timeout=3&", "h1:5432 h2:5432"},
		{"a question mark at the end of a value", "postgres://u@h1,h2/db?application_name=a?", "h1:5432 h2:5432"},
		{"hostaddr beats a socket", "host=/a,h2 hostaddr=10.0.0.1,10.0.0.2 user=u", "10.0.0.1:5432 h2:5432"},
	} {
		t.Run(test.name, func(t *testing.T) {
			testenv.Isolate(t)
			c, err := ParseConfig(test.dsn)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(c); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			for _, n := range c.Nodes {
				if got, err := pgxpool.ParseConfig(test.dsn); err == nil && got.ConnConfig.User != n.Pool.ConnConfig.User {
					t.Errorf("user %q of %s, want %q", n.Pool.ConnConfig.User, n.Name, got.ConnConfig.User)
				}
				if len(n.Pool.ConnConfig.Fallbacks) > 1 || dsn.SeveralHosts(n.Pool) {
					t.Errorf("%s has the fallbacks of another host", n.Name)
				}
			}
		})
	}
}

func TestParseConfigReadsTheEnvironmentAndFiles(t *testing.T) {
	home := testenv.Isolate(t)
	write := func(name, text string) string {
		path := filepath.Join(home, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("PGHOST", "h1,h2")
	t.Setenv("PGPORT", "1,2")
	t.Setenv("PGUSER", "u")
	t.Setenv("PGPASSFILE", write("pass", "h1:1:*:u:one\nh2:2:*:u:two\n"))
	c, err := ParseConfig("dbname=d")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(c); got != "h1:1 h2:2" {
		t.Errorf("from PGHOST and PGPORT: %s", got)
	}
	for i, want := range []string{"one", "two"} {
		if got := c.Nodes[i].Pool.ConnConfig.Password; got != want {
			t.Errorf("password of node %d: %q, want %q: .pgpass is per host", i, got, want)
		}
	}

	t.Setenv("PGSERVICEFILE", write("service", "[shop]\nhost=s1,s2\nport=7\nhasql_check_interval=3s\ndbname=x\n"))
	c, err = ParseConfig("service=shop")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(c); got != "s1:7 s2:7" || c.CheckInterval != 3*time.Second || c.Nodes[1].Pool.ConnConfig.Database != "x" {
		t.Errorf("from the service file: %s, %v", got, c.CheckInterval)
	}

	t.Setenv("PGHOSTADDR", "10.0.0.1,10.0.0.2")
	c, err = ParseConfig("dbname=d")
	if err != nil {
		t.Fatal(err)
	}
	if ip, err := c.Nodes[1].Pool.ConnConfig.LookupFunc(t.Context(), "h2"); err != nil || ip[0] != "10.0.0.2" {
		t.Errorf("PGHOSTADDR: %v, %v", ip, err)
	}
}

func TestParseConfigReadsEveryOption(t *testing.T) {
	testenv.Isolate(t)
	c, err := ParseConfig("postgres://u:pw@h1,h2/db?sslmode=disable&hasql_check_interval=2s&hasql_check_timeout=300ms" +
		"&hasql_down_timeout=4s&hasql_recovery_interval=20ms&hasql_acquire_timeout=-1s&hasql_fallback_master=true&hasql_multi_master=off" +
		"&hasql_master_as_replica_weight=0.25&hasql_zone_spillover=0.5&hasql_max_replica_lag=5s&hasql_multi_master=on&hasql_balancer=round_robin" +
		"&hasql_zones=a,b&target_session_attrs=prefer-standby&keepalives_idle=7&keepalives_interval=8&keepalives_count=9" +
		"&tcp_user_timeout=1234&pool_max_conns=7&fallback_application_name=shop&load_balance_hosts=random&gssencmode=disable" +
		"&search_path=x")
	if err != nil {
		t.Fatal(err)
	}
	type options struct {
		interval, timeout, down, recovery, acquire, lag time.Duration
		fallback, multi                                 bool
		weight, spillover                               float64
		target                                          Target
		zones                                           string
		picker                                          string
		conns                                           int32
		params                                          string
	}
	got := options{
		c.CheckInterval, c.CheckTimeout, c.DownTimeout, c.RecoveryInterval, c.AcquireTimeout, c.MaxReplicaLag,
		c.FallbackMaster, c.MultiMaster, c.MasterAsReplicaWeight, c.ZoneSpillover, c.Target, c.Nodes[0].Zone + c.Nodes[1].Zone,
		fmt.Sprintf("%T", c.Picker), c.Nodes[1].Pool.MaxConns, fmt.Sprint(c.Nodes[0].Pool.ConnConfig.RuntimeParams),
	}
	want := options{
		2 * time.Second, 300 * time.Millisecond, 4 * time.Second, 20 * time.Millisecond, -time.Second, 5 * time.Second,
		true, true, 0.25, 0.5, TargetPreferReplica, "ab", "*hasql.roundRobin", 7, "map[application_name:shop search_path:x]",
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if c.Nodes[0].Pool.ConnConfig.ValidateConnect != nil {
		t.Error("target_session_attrs would keep nodes out of their pools")
	}
}

func TestParseConfigTargets(t *testing.T) {
	testenv.Isolate(t)
	for attrs, want := range sessionTargets {
		c, err := ParseConfig("host=h1,h2 user=u target_session_attrs=" + attrs)
		if err != nil || c.Target != want {
			t.Errorf("%s: %v, %v; want %v", attrs, c.Target, err, want)
		}
	}
	t.Setenv("PGTARGETSESSIONATTRS", "standby")
	if c, err := ParseConfig("host=h1 user=u"); err != nil || c.Target != TargetReplica {
		t.Errorf("from the environment: %v", err)
	}
}

func TestLoadBalanceHostsIsObeyedWhereTheBalancerIsSilent(t *testing.T) {
	testenv.Isolate(t)
	const rounds = 1000
	cs := fleet(3, 3, 1) // the first, all of them, or the nearest
	for _, test := range []struct {
		dsn, env string
		want     []bool // who gets work
	}{
		{"", "", []bool{true, true, true}},
		{"load_balance_hosts=disable", "", []bool{true, false, false}},
		{"load_balance_hosts=random", "", []bool{true, true, true}},
		{"", "disable", []bool{true, false, false}},
		{"load_balance_hosts=random", "disable", []bool{true, true, true}},
		{"hasql_balancer=first", "random", []bool{true, false, false}},
		{"hasql_balancer=nearest load_balance_hosts=disable", "", []bool{false, false, true}},
	} {
		t.Setenv("PGLOADBALANCEHOSTS", test.env)
		c, err := ParseConfig("host=h1,h2,h3 user=u " + test.dsn)
		if err != nil {
			t.Fatal(err)
		}
		for i, share := range shares(c.Picker, cs, rounds) {
			if (share > 0) != test.want[i] {
				t.Errorf("%q, PGLOADBALANCEHOSTS=%q: node %d has %v", test.dsn, test.env, i, share)
			}
		}
	}
}

func TestParseConfigSetsLimitsWherePgxpoolHasNone(t *testing.T) {
	testenv.Isolate(t)
	c, err := ParseConfig("host=h1,h2 user=u")
	if err != nil {
		t.Fatal(err)
	}
	p := c.Nodes[1].Pool
	if p.ConnConfig.ConnectTimeout != 2*time.Second ||
		p.MaxConnLifetimeJitter != p.MaxConnLifetime/10 || p.HealthCheckPeriod != 5*time.Second {
		t.Errorf("connect %v, jitter %v, health check %v", p.ConnConfig.ConnectTimeout, p.MaxConnLifetimeJitter, p.HealthCheckPeriod)
	}
	c.CheckTimeout = 77 * time.Millisecond
	if c.setDefaults(); p.PingTimeout != c.CheckTimeout {
		t.Errorf("pings wait %v, probes %v", p.PingTimeout, c.CheckTimeout)
	}
	c, err = ParseConfig("host=h1 user=u connect_timeout=9 pool_ping_timeout=8s pool_max_conn_lifetime_jitter=7s pool_health_check_period=1m")
	if err != nil {
		t.Fatal(err)
	}
	p = c.Nodes[0].Pool
	if p.ConnConfig.ConnectTimeout != 9*time.Second || p.PingTimeout != 8*time.Second ||
		p.MaxConnLifetimeJitter != 7*time.Second || p.HealthCheckPeriod != time.Minute {
		t.Error("what the DSN says is not kept")
	}
}

func TestParseConfigTLSIsTheHostsOwn(t *testing.T) {
	testenv.Isolate(t)
	c, err := ParseConfig("postgres://u@h1.example,h2.example/db?sslmode=verify-full")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"h1.example", "h2.example"} {
		if conn := c.Nodes[i].Pool.ConnConfig; conn.TLSConfig.ServerName != want || len(conn.Fallbacks) != 0 {
			t.Errorf("node %d: server name %s, %d fallbacks", i, conn.TLSConfig.ServerName, len(conn.Fallbacks))
		}
	}
	c, err = ParseConfig("postgres://u@h1,h2/db") // sslmode=prefer: TLS, then the same host without
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		f := n.Pool.ConnConfig.Fallbacks
		if n.Pool.ConnConfig.TLSConfig == nil || len(f) != 1 || f[0].TLSConfig != nil || f[0].Host != n.Pool.ConnConfig.Host {
			t.Errorf("%s: wrong fallbacks for sslmode=prefer", n.Name)
		}
	}
}

const password = "s3cr3tPassw0rd"

func TestParseConfigRefusesNonsenseByName(t *testing.T) {
	for _, test := range []struct{ dsn, want string }{
		{"postgres://u:" + password + "@h1:abc/db", "port"},
		{"postgres://u:" + password + "@h1:70000/db", "port"},
		{"host=h1,h2 port=1,2,3 password=" + password, "could not match 3 port numbers to 2 hosts"},
		{"host=h1 password=" + password + " hasql_check_interval=soon", "hasql_check_interval=soon: not a duration"},
		{"host=h1 password=" + password + " hasql_check_interval=-1s", "CheckInterval must be positive"},
		{"host=h1 password=" + password + " hasql_chek_interval=1s", "hasql_chek_interval: no such option"},
		{"host=h1 password=" + password + " pool_max_con=1", "pool_max_con: no such option of pgxpool"},
		{"host=h1 password=" + password + " pool_max_conns=many", "pool_max_conns"},
		{"host=h1 password=" + password + " hasql_balancer=best", "hasql_balancer=best: not one of"},
		{"host=h1 password=" + password + " hasql_master_as_replica_weight=1.5", "MasterAsReplicaWeight must be from 0 to 1"},
		{"host=h1 password=" + password + " hasql_master_as_replica_weight=NaN", "MasterAsReplicaWeight must be from 0 to 1"},
		{"host=h1 password=" + password + " hasql_zone_spillover=much", "hasql_zone_spillover=much: not a number"},
		{"host=h1 password=" + password + " hasql_zone_spillover=0", "hasql_zone_spillover=0: not above 0"},
		{"host=h1 password=" + password + " hasql_zone_spillover=80", "ZoneSpillover must be above 0 and at most 1, not 80"},
		{"host=h1 password=" + password + " hasql_fallback_master=maybe", "hasql_fallback_master=maybe: neither true nor false"},
		{"host=h1,h2 password=" + password + " hasql_zones=a", "hasql_zones: 1 zones for 2 hosts"},
		{"host=h1 hasql_zones='a password=" + password + "'", "hasql_zones: a zone may contain only letters, digits and .:%+/_-"},
		{"host=h1,h2 password=" + password + " hostaddr=10.0.0.1", "hostaddr: 1 addresses for 2 hosts"},
		{"host=/tmp hostaddr=10.0.0.1,10.0.0.2 password=" + password, "hostaddr: 2 addresses for 1 hosts"},
		{"host=localhost hostaddr=10.0.0.1,10.0.0.2 password=" + password, "hostaddr: 2 addresses for 1 hosts"},
		{"host=h1 password=" + password + " hostaddr=elsewhere", "hostaddr=elsewhere: not an IP address"},
		{"host=h1 password=" + password + " load_balance_hosts=yes", "load_balance_hosts=yes: neither disable nor random"},
		{"host=h1 password=" + password + " keepalives_idle=x", "keepalives_idle=x: not a whole number"},
		{"host=h1 password=" + password + " keepalives_idle=99999999999", "keepalives_idle=99999999999: not a whole number"},
		{"host=h1 password=" + password + " tcp_user_timeout=x", "tcp_user_timeout=x: not a whole number"},
		{"host=h1 password=" + password + " target_session_attrs=master", "target_session_attrs"},
		{"host=h1 password=" + password + " sslmode=sometimes", "sslmode"},
		{"host=h1 password=" + password + " sslcrl=/x", "sslcrl: not supported"},
		{"postgres://u:" + password + "@h1/db?ssl=false", "ssl: not supported"},
		{"host=h1 password=a s3cr3t/Passw0rd=x", "unknown key"},
		{"host=h1 password=" + password + " sslcert=/x", `both "sslcert" and "sslkey" are required`},
		{"host=h1 sslcert=/x sslkey='/x password=" + password + "'", "unable to read sslkey"},
		{"host=h1 sslrootcert='/x password=" + password + "'", "unable to read CA file"},
		{"host=h1 hasql_balancer='best password=" + password + "'", "hasql_balancer: not one of"},
		{"host=h1 keepalives='1 password=" + password + "'", "keepalives: not a whole number"},
		{"host=h1 hostaddr='10.0.0.1 password=" + password + "'", "hostaddr: not an IP address"},
		{"host=h1 password=" + password + " gssencmode=require", "gssencmode=require: not supported"},
		{"host=h1 password=" + password + " connect_timeout=x", "connect_timeout"},
		{"host=h1 password=" + password + " hasql_check_timeout=5s hasql_down_timeout=1s", "DownTimeout (1s) must not be shorter than CheckTimeout (5s)"},
		{"host=h1 password=" + password + " hasql_recovery_interval=5s", "RecoveryInterval (5s) must not be longer than CheckInterval (1s)"},
		{"postgresql+asyncpg://u:" + password + "@h1/db", `scheme "postgresql+asyncpg"`},
		{"mysql://u:" + password + "@h1/db", `scheme "mysql"`},
		{"postgres://u:s3cr3t@Passw0rd@h1/db", "write '@' in a user name or password as %40"},
		{"postgres://u:s3cr3t@@Passw0rd/db", "write '@' in a user name or password as %40"},
		{"host=@a@b user=u password=" + password, "a host contains"},
		{"postgres://h1?user=me@realm&password=" + password, "a host contains"},
		{"postgres://u:s3cr3t/Passw0rd@h1/db", "port"},
		{"postgres://u:1234/Passw0rd@h1/db", "the database contains '@'"},
		{"host=h1 pool_health_check_period=0s", "pool_health_check_period must be positive"},
		{"host=h1 pool_min_conns=-1", "pool_min_conns must be from 0"},
		{"host=h1 pool_max_conns=2 pool_min_idle_conns=3", "pool_min_idle_conns must be from 0 to pool_max_conns (2), not 3"},
		{"host=h1 password='" + password, "unterminated quoted string"},
		{"host=h1 password=" + password + " s3cr3tPassw0rd tail=x", "missing"},
		{"postgres://u@h1/db?password=" + password + "&s3cr3tPassw0rd", "URI query parameter"},
		{"postgres://u@h1/db?password=%zz" + password, "percent-encoded"},
		{"postgres://u:" + password + "%@h1/db", "percent-encoded"},
		{"postgres://u:" + password + "@[::1/db", "IPv6"},
		{password, "invalid keyword/value"},
		{"host=h1 password=" + password + " service=none", "service"},
	} {
		t.Run(test.want, func(t *testing.T) {
			testenv.Isolate(t)
			c, err := ParseConfig(test.dsn)
			if err == nil {
				t.Fatalf("accepted, as %s", names(c))
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q does not say %q", err, test.want)
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				if strings.Contains(text, "s3cr3t") || strings.Contains(text, "Passw0rd") {
					t.Errorf("the password is in %q", text)
				}
			}
		})
	}
}

func TestParseConfigNamesAllProblemsAtOnce(t *testing.T) {
	testenv.Isolate(t)
	_, err := ParseConfig("host=h1,h2 hasql_check_interval=soon hasql_balancer=best hasql_zones=a keepalives=x")
	for _, part := range []string{"hasql_check_interval", "hasql_balancer", "hasql_zones", "keepalives"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %s", err, part)
		}
	}
}

func TestParseConfigWarnsOfAPortForTheLastHostAlone(t *testing.T) {
	testenv.Isolate(t)
	for dsn, want := range map[string]int{
		"postgres://u@h1,h2:6432/db":      1,
		"postgres://u@h1:6432,h2:6432/db": 0,
		"postgres://u@h1,h2/db":           0,
		"postgres://u@[::1],[::2]:6432":   1,
		"postgres://u@h1:6432":            0,
		"host=h1,h2 port=,6432":           0,
	} {
		c, err := ParseConfig(dsn)
		if err != nil || len(c.warnings) != want {
			t.Errorf("%s: %v, %v", dsn, c.warnings, err)
		}
	}
}

func TestEmptyDSNIsRefusedUnlessTheEnvironmentNamesACluster(t *testing.T) {
	for _, env := range []string{"", "PGHOST", "PGHOSTADDR"} {
		testenv.Isolate(t)
		if env != "" {
			t.Setenv(env, "192.0.2.7")
		}
		for _, dsn := range []string{"", " \n"} {
			_, err := ParseConfig(dsn)
			if env != "" && err == nil {
				continue
			}
			if _, ok := errors.AsType[*ConfigError](err); !ok || env != "" || !strings.Contains(err.Error(), "the DSN is empty") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q with %s: %v", dsn, env, err)
			}
		}
	}
	testenv.Isolate(t)
	for _, dsn := range []string{"dbname=d", "postgres://", "host=localhost"} {
		if _, err := ParseConfig(dsn); err != nil {
			t.Errorf("a DSN that says something was taken for an empty one: %v", err)
		}
	}
}

func TestEachPoolIsEdited(t *testing.T) {
	testenv.Isolate(t)
	c, err := ParseConfig("postgres://u@h1,h2,h3/db")
	if err != nil {
		t.Fatal(err)
	}
	c.EachPool(func(p *pgxpool.Config) { p.MaxConns = 17 })
	for _, n := range c.Nodes {
		if n.Pool.MaxConns != 17 {
			t.Errorf("%s may have %d connections", n.Name, n.Pool.MaxConns)
		}
	}
}

func TestNewWarnsOfALagLimitThatProbesAreTooRareFor(t *testing.T) {
	for limit, want := range map[time.Duration]int{0: 0, 999 * time.Millisecond: 1, time.Second: 0, time.Minute: 0} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			core, logs := observer.New(zapcore.WarnLevel)
			open(t, c, func(c *Config) { c.MaxReplicaLag, c.Logger = limit, zap.New(core) })
			if got := logs.FilterMessageSnippet("is shorter than CheckInterval (1s)").Len(); got != want {
				t.Errorf("%v: %d warnings", limit, got)
			}
		})
	}
}

func TestNewWithConfigRefusesWhatMakesNoSense(t *testing.T) {
	testenv.Isolate(t)
	multi, err := pgxpool.ParseConfig("postgres://u@h1,h2/db?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	one := func(edit func(*pgxpool.Config)) *pgxpool.Config {
		pool, err := pgxpool.ParseConfig("postgres://u@h1/db?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		edit(pool)
		return pool
	}
	plain := one(func(*pgxpool.Config) {})
	for name, config := range map[string]*Config{
		`Target must be one of the Target constants, not 99`:     {Target: 99},
		`Nodes: two nodes have the name "h1:5432"`:               {Nodes: []NodeConfig{{Pool: plain}, {Name: "h1:5432", Pool: plain}}},
		"pool_max_conns must be at least 1, not 0":               {Nodes: []NodeConfig{{Pool: one(func(p *pgxpool.Config) { p.MaxConns = 0 })}}},
		"pool_ping_timeout must not be negative":                 {Nodes: []NodeConfig{{Pool: one(func(p *pgxpool.Config) { p.PingTimeout = -1 })}}},
		"Nodes is empty":                                         {},
		"Nodes[0] has no Pool":                                   {Nodes: []NodeConfig{{Name: "a"}}},
		"Nodes[0] has no Pool (2)":                               {Nodes: []NodeConfig{{Name: "a", Pool: &pgxpool.Config{}}}},
		`Nodes[1].Pool needs a Host and a Port, not "" and 5432`: {Nodes: []NodeConfig{{Pool: plain}, {Pool: one(func(p *pgxpool.Config) { p.ConnConfig.Host = "" })}}},
		`Nodes[0].Pool needs a Host and a Port, not "h1" and 0`:  {Nodes: []NodeConfig{{Name: "a", Pool: one(func(p *pgxpool.Config) { p.ConnConfig.Port = 0 })}}},
		`the pool of "a" has more than one host`:                 {Nodes: []NodeConfig{{Name: "a", Pool: multi}}},
		"CheckTimeout must be positive, not -1ns":                {CheckTimeout: -1},
		"MaxReplicaLag must not be negative: -1ns":               {MaxReplicaLag: -1},
	} {
		name = strings.TrimSuffix(name, " (2)")
		if _, err := NewWithConfig(t.Context(), config); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not say %q", err, name)
		}
	}
}

func TestNewRefusesABadDSN(t *testing.T) {
	testenv.Isolate(t)
	if _, err := New(t.Context(), "postgres://u:hush@h1/db?hasql_master_as_replica_weight=much"); !pgerr.Is[*ConfigError](err) || strings.Contains(err.Error(), "hush") ||
		!strings.Contains(err.Error(), "hasql_master_as_replica_weight=much: not a number") {
		t.Errorf("error %v", err)
	}
}

func TestConfigCopyIsDeep(t *testing.T) {
	testenv.Isolate(t)
	c, err := ParseConfig("host=h1,h2 user=u")
	if err != nil {
		t.Fatal(err)
	}
	d := c.Copy()
	d.Nodes[0].Name = "other"
	d.Nodes[1].Pool.MaxConns = 99
	d.Nodes[1].Pool.ConnConfig.RuntimeParams["x"] = "y"
	if c.Nodes[0].Name != "h1:5432" || c.Nodes[1].Pool.MaxConns == 99 || c.Nodes[1].Pool.ConnConfig.RuntimeParams["x"] != "" {
		t.Error("a change of the copy changed the original")
	}
}
