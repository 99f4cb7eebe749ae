package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestExecGoesWhereItIsTold(t *testing.T) {
	cluster := useCluster(t)
	const where = "select pg_is_in_recovery()"
	for _, test := range []struct {
		dsn, flag string
		recovery  string
	}{
		{cluster.DSN(), "--master", "f"},
		{cluster.DSN(), "--replica", "t"},
		{cluster.DSN(), "--prefer-replica", "t"},
		{cluster.Nodes()[0].DSN(), "--prefer-replica", "f"},
		{cluster.Nodes()[1].DSN(), "--any", "t"},
		{cluster.DSN(), "--master=true", "f"},
		{cluster.DSN() + "&target_session_attrs=standby", "", "t"},
		{cluster.DSN() + "&target_session_attrs=standby", "--master", "f"},
		{cluster.DSN(), "", "f"},
	} {
		t.Setenv("DATABASE_URL", test.dsn)
		args := []string{"exec", "--csv", "-c", where}
		if test.flag != "" {
			args = append(args, test.flag)
		}
		invoke(t, args...).expect(t, 0, "pg_is_in_recovery\n"+test.recovery+"\n", "")
	}
}

func TestExecTable(t *testing.T) {
	useCluster(t)
	const query = `select * from (values (1, 'a', null), (100, E'b\n\x1b[31m', 'ж世')) v (id, "the text", x)`
	const want = ` id | the text    | x
----+-------------+-----
  1 | a           | NULL
100 | b\n\x1b[31m | ж世
(2 rows)
`
	if o := invoke(t, "exec", "-c", query); o.status != 0 || o.stdout != want {
		t.Errorf("%d\n%s", o.status, o.stdout)
	}
	invoke(t, "exec", "-c", "select 1 as x where false", "-c", "set work_mem = '1MB'").expect(t, 0, "x\n-\n(0 rows)\nSET\n", "")
}

func TestExecCSV(t *testing.T) {
	useCluster(t)
	o := invoke(t, "exec", "--csv", "-c", `select 1 as id, E'a,"b"\n' as text, null as nothing`, "-c", "set work_mem = '1MB'")
	rows, err := csv.NewReader(strings.NewReader(o.stdout)).ReadAll()
	if err != nil || o.status != 0 {
		t.Fatal(err, o)
	}
	if got, want := fmt.Sprintf("%q", rows), `[["id" "text" "nothing"] ["1" "a,\"b\"\n" ""]]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestExecJSON(t *testing.T) {
	useCluster(t)
	o := invoke(t, "exec", "--json", "-c", `select 9007199254740993 as n, 1.50 as n, 'NaN'::float8 as nan, true as yes, null as nothing,
		'{"a": [1]}'::json as doc, '<&>"' as text, 'infinity'::date as never`, "-c", "select 1 where false", "-c", "set work_mem = '1MB'")
	const want = `[{"n":9007199254740993,"n_2":1.50,"nan":"NaN","yes":true,"nothing":null,"doc":{"a":[1]},"text":"<&>\"","never":"infinity"}]
[]
`
	if o.status != 0 || o.stdout != want {
		t.Errorf("%d\n%s\nwant\n%s", o.status, o.stdout, want)
	}
	o = invoke(t, "exec", "--json", "-c", "select generate_series(1, 3) as i")
	var rows []map[string]int
	if err := json.Unmarshal([]byte(o.stdout), &rows); err != nil || len(rows) != 3 || rows[2]["i"] != 3 {
		t.Errorf("%v: %s", err, o.stdout)
	}
}

func TestExecReadsFiles(t *testing.T) {
	useCluster(t)
	file := filepath.Join(t.TempDir(), "query.sql")
	if err := os.WriteFile(file, []byte("select 1 as a; -- and\nselect 2 as b;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	invoke(t, "exec", "--csv", "-f", file).expect(t, 0, "a\n1\nb\n2\n", "")
	invoke(t, "exec", "-f", file+".missing").expect(t, exitUnable, "", "no such file")

	cmd := child(t, "exec", "--csv", "-f", "-")
	cmd.Stdin = strings.NewReader("select 3 as c")
	if out, err := cmd.Output(); err != nil || string(out) != "c\n3\n" {
		t.Errorf("from standard input: %q, %v", out, err)
	}
}

func TestExecStopsAtTheFirstFailure(t *testing.T) {
	useCluster(t)
	o := invoke(t, "exec", "--csv",
		"-c", "create temp table t (i int primary key)", "-c", "insert into t values (1)", // one session
		"-c", "table t",
		"-c", "insert into t values (1)",
		"-c", "select 'not reached'")
	o.expect(t, exitNo, "i\n1\n", "(SQLSTATE 23505)\n  detail: Key (i)=(1) already exists.")
	if strings.Contains(o.stdout, "not reached") {
		t.Errorf("it went on: %s", o.stdout)
	}
	invoke(t, "exec", "-c", "select 1; select 1/0").expect(t, exitNo, "(1 row)", "division by zero")
	invoke(t, "exec", "--replica", "-c", "create table t (i int)").expect(t, exitNo, "", "SQLSTATE 25006")
	invoke(t, "exec", "-c", "do $$ begin raise notice 'mind the gap'; end $$").expect(t, 0, "DO\n", "NOTICE: mind the gap\n")
}

func TestExecWithoutANode(t *testing.T) {
	cluster := useCluster(t)
	t.Setenv("DATABASE_URL", cluster.Nodes()[0].DSN()+"&hasql_acquire_timeout=1h") // --timeout wins
	invoke(t, "exec", "--replica", "--timeout", "300ms", "-c", "select 1").expect(t, exitTimedOut, "", "exec: no replica within ")
	t.Setenv("DATABASE_URL", cluster.Nodes()[0].DSN()+"&hasql_acquire_timeout=200ms")
	invoke(t, "exec", "--replica", "-c", "select 1").expect(t, exitTimedOut, "", "exec: no replica within ")
	t.Setenv("DATABASE_URL", strings.Replace(cluster.DSN(), secret, "wrong", 1))
	invoke(t, "exec", "--timeout", "2s", "-c", "select 1").expect(t, exitTimedOut, "", "SQLSTATE 28P01")
}

func TestExecUsage(t *testing.T) {
	t.Setenv("DATABASE_URL", nobody)
	for want, args := range map[string][]string{
		"nothing to run":     {},
		"[command file]":     {"-c", "select 1", "-f", "x"},
		"[csv json]":         {"-c", "select 1", "--csv", "--json"},
		"[master replica":    {"-c", "select 1", "--master", "--replica"},
		"invalid argument":   {"-c", "select 1", "--timeout", "x"},
		"unknown flag: --on": {"-c", "select 1", "--on", "pg1"},
	} {
		invoke(t, append([]string{"exec"}, args...)...).expect(t, exitUnable, "", want)
	}
}

func TestCtrlCCancelsTheStatement(t *testing.T) {
	cluster := useCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watcher, err := cluster.Nodes()[0].Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close(context.Background())

	cmd := child(t, "exec", "-c", "select pg_sleep(3600)")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitSleepers(ctx, t, watcher, 1)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if got := exitStatus(t, cmd); got != exitInterrupted || stderr.String() != "hasql: exec: interrupted\n" {
		t.Errorf("exit status %d, stderr %q", got, stderr.String())
	}
	awaitSleepers(ctx, t, watcher, 0)
}

// awaitSleepers waits until the given number of sessions run pg_sleep.
func awaitSleepers(ctx context.Context, t *testing.T, conn *pgx.Conn, want int) {
	t.Helper()
	const query = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(%' and application_name = 'hasql'"
	for got := -1; got != want; {
		if err := conn.QueryRow(ctx, query).Scan(&got); err != nil {
			t.Fatal(err)
		}
	}
}
