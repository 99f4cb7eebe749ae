package pgfake

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestConnectReachesTheNodeOfTheDSN(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		for i, n := range c.Nodes() {
			conn := connect(t, n)
			equal(t, "node", ask[string](t, conn, "read"), n.Name())
			equal(t, "in recovery", ask[bool](t, conn, "select pg_is_in_recovery()"), i > 0)
			equal(t, "standby", conn.PgConn().ParameterStatus("in_hot_standby"), onOff(i > 0))
			equal(t, "remote", conn.PgConn().Conn().RemoteAddr().String(), n.Addr())
		}
		equal(t, "DSN", c.DSN(), "postgres://app:secret@pg1:5432,pg2:5432,pg3:5432/app?sslmode=disable")
	})
}

func TestTargetSessionAttrsFindTheMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Node("pg1").Demote()
		c.Node("pg2").Promote()
		for attrs, want := range map[string]string{
			"read-write": "pg2", "primary": "pg2", "read-only": "pg1", "standby": "pg1", "prefer-standby": "pg1",
		} {
			conn, err := pgx.ConnectConfig(within(t, time.Second), config(t, c, c.DSN()+"&target_session_attrs="+attrs))
			if err != nil {
				t.Errorf("%s: %v", attrs, err)
				continue
			}
			equal(t, attrs, ask[string](t, conn, "read"), want)
			_ = conn.Close(t.Context())
		}
	})
}

func TestStartupParameters(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg2")
		n.SetDefaultReadOnly(true)
		status := connect(t, n).PgConn().ParameterStatus
		equal(t, "version", status("server_version"), DefaultServerVersion)
		equal(t, "encoding", status("client_encoding"), "UTF8")
		equal(t, "read only", status("default_transaction_read_only"), "on")
		equal(t, "user", status("session_authorization"), "app")

		n.SetServerVersion("13.21")
		status = connect(t, n).PgConn().ParameterStatus
		equal(t, "version", status("server_version"), "13.21")
		equal(t, "standby on 13", status("in_hot_standby"), "")
	})
}

func TestSSLIsDeclined(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		cfg := config(t, c, "postgres://app:secret@pg1:5432/app?sslmode=prefer")
		conn, err := pgx.ConnectConfig(within(t, time.Second), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		equal(t, "dials", c.Node("pg1").Dials(), 2) // pgx dials again for the plain attempt
	})
}

func TestUnknownNames(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		_, err := c.Dial(t.Context(), "tcp", "pg9:5432")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial: %v, want ECONNREFUSED", err)
		}
		_, err = c.Lookup(t.Context(), "pg9")
		if e, ok := errors.AsType[*net.DNSError](err); !ok || !e.IsNotFound {
			t.Errorf("Lookup: %v, want not found", err)
		}
	})
}

func TestPassword(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.RequirePassword(true)
		connect(t, c.Node("pg1"))
		cfg := config(t, c, "postgres://app:wrong@pg1:5432/app?sslmode=disable")
		_, err := pgx.ConnectConfig(within(t, time.Second), cfg)
		wantState(t, err, "28P01")
	})
}

func TestCloseEndsConnectionsAndDials(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		conn := connect(t, c.Node("pg1"))
		c.Node("pg2").Cut()
		hung := background(func() error {
			_, err := c.Dial(context.Background(), "tcp", "pg2:5432")
			return err
		})
		slept := background(exec(conn, "select pg_sleep(3600)"))
		synctest.Wait()
		c.Close()
		if err := <-hung; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("hanging dial: %v, want ECONNREFUSED", err)
		}
		if err := <-slept; err == nil {
			t.Error("query succeeded, want the end of its connection")
		}
		if _, err := dial(t, c.Node("pg1")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial after Close: %v, want ECONNREFUSED", err)
		}
	})
}

func TestCounters(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		a, b := connect(t, n), connect(t, n)
		do(t, a, "write a", "write a;")
		if err := b.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "dials", n.Dials(), 2)
		equal(t, "conns", n.Conns(), 2)
		equal(t, "write", n.QueryCount("write a"), 2)
		equal(t, "pings", n.Queries()["-- ping"], 1)
		pids := n.PIDs()
		if len(pids) != 2 || pids[0] != a.PgConn().PID() || pids[1] != b.PgConn().PID() {
			t.Errorf("PIDs = %v, want %d and %d", pids, a.PgConn().PID(), b.PgConn().PID())
		}
		_ = b.Close(t.Context())
		synctest.Wait()
		equal(t, "conns after Close", n.Conns(), 1)
	})
}

func TestVirtualTimeCostsLittle(t *testing.T) {
	start := time.Now()
	bubble(t, func(t *testing.T, c *Cluster) {
		begun := time.Now()
		p := pool(t, c.Node("pg1"), 2)
		for range 1000 {
			time.Sleep(10 * time.Second)
			ask[int](t, p, "select 1")
		}
		if d := time.Since(begun); d < 10_000*time.Second {
			t.Errorf("%v of virtual time, want 10000 s", d)
		}
	})
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("10000 virtual seconds took %v", d)
	}
}
