package main

import (
	"strings"
	"testing"
)

func TestNoUsageErrorRepeatsADSN(t *testing.T) {
	dsn := "postgres://app:" + secret + "@pg1/shop"
	for _, args := range [][]string{
		{dsn},
		{"help", dsn},
		{"stauts", dsn},
		{"status", dsn, dsn},
		{"status", "-x" + dsn},
		{"status", "--dsn=" + dsn},
		{"wait", "--timeout", dsn},
		{"wait", "--masters=" + dsn},
		{"wait", "host=pg1 password=" + secret + " port=none"},
		{"host=pg1 password=" + secret},
		{"status", "postgres://app:" + secret + "@pg1:port/shop"},
		{"status", "postgres://app:" + secret + "%zz@pg1/shop"},
		{"exec", dsn, "-c", "select 1", "-f", "x"},
		{"exec", "-c", "select 1", "postgres://app:" + secret + "@pg1/shop?hasql_check_interval=soon"},
		{"demo", dsn},
	} {
		o := invoke(t, args...)
		if o.status != exitUnable || o.stderr == "" || o.stdout != "" {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

func TestWhichCluster(t *testing.T) {
	for _, command := range [][]string{{"status"}, {"wait"}, {"exec", "-c", "select 1"}} {
		invoke(t, command...).expect(t, exitUnable, "", "give a DSN or set DATABASE_URL")
	}
	t.Setenv("DATABASE_URL", "mysql://nowhere")
	invoke(t, "status").expect(t, exitUnable, "", `scheme "mysql"`)
	// An argument wins over DATABASE_URL, and DATABASE_URL wins over libpq's variables.
	invoke(t, "wait", "--timeout", "50ms", nobody).expect(t, exitTimedOut, "", "127.0.0.1:1 ")
	t.Setenv("PGHOST", "127.0.0.1")
	t.Setenv("PGPORT", "3")
	t.Setenv("DATABASE_URL", nobody)
	invoke(t, "wait", "--timeout", "50ms").expect(t, exitTimedOut, "", "127.0.0.1:1 ")
	t.Setenv("DATABASE_URL", "")
	invoke(t, "wait", "--timeout", "50ms").expect(t, exitTimedOut, "", "127.0.0.1:3 ")
}

func TestPasswordOnTheCommandLineIsWarnedOf(t *testing.T) {
	const warning = "see the password on the command line"
	for _, dsn := range []string{
		"postgres://app:" + secret + "@127.0.0.1:1/shop",
		"postgres://app:hush%2Dhush@127.0.0.1:1/shop",
		"host=127.0.0.1 port=1 user=app password=" + secret,
	} {
		invoke(t, "wait", "--timeout", "50ms", dsn).expect(t, exitTimedOut, "", warning)
	}
	t.Setenv("DATABASE_URL", "postgres://app:"+secret+"@127.0.0.1:1/shop")
	if o := invoke(t, "wait", "--timeout", "50ms"); strings.Contains(o.stderr, warning) {
		t.Errorf("warned of a password in the environment: %s", o.stderr)
	}
	t.Setenv("PGPASSWORD", secret)
	if o := invoke(t, "wait", "--timeout", "50ms", nobody); strings.Contains(o.stderr, warning) {
		t.Errorf("warned of a password that is elsewhere: %s", o.stderr)
	}
}
