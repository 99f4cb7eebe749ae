package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// childEnv makes the test binary run as the command itself. Tests of signals and terminals need a process of their own.
const childEnv = "HASQL_TEST_COMMAND"

// secret is the password of the tests' clusters. No output may contain it.
const secret = "hush-hush"

// shared is a master with two replicas for all tests that do not break it. It is nil if PostgreSQL is not installed.
var shared *pgcluster.Cluster

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
	}
	os.Exit(testAll(m))
}

func testAll(m *testing.M) int {
	// The environment may contain a DSN of the person who runs the tests.
	for _, env := range os.Environ() {
		if name, _, _ := strings.Cut(env, "="); name == "DATABASE_URL" || strings.HasPrefix(name, "PG") && name != "PGBINDIR" {
			os.Unsetenv(name)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Replicas: 2, Password: secret})
	switch {
	case err == nil:
		shared = cluster
		defer cluster.Close()
	case !errors.Is(err, pgcluster.ErrNoPostgres) || os.Getenv("HASQL_REQUIRE_POSTGRES") == "1":
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// useCluster gives the test the shared cluster and sets DATABASE_URL to it, with time limits for a busy machine.
func useCluster(t *testing.T) *pgcluster.Cluster {
	t.Helper()
	if shared == nil {
		t.Skip("PostgreSQL is not installed")
	}
	t.Setenv("DATABASE_URL", shared.DSN()+"&hasql_check_timeout=20s")
	return shared
}

// nobody is a DSN of nodes that do not exist.
const nobody = "postgres://app@127.0.0.1:1,127.0.0.1:2/shop"

// outcome is the exit status and the output of a command line.
type outcome struct {
	status         int
	stdout, stderr string
}

// invoke runs a command line, and fails the test if the output contains the password.
func invoke(t *testing.T, args ...string) outcome {
	t.Helper()
	var stdout, stderr strings.Builder
	o := outcome{status: run(args, &stdout, &stderr)}
	o.stdout, o.stderr = stdout.String(), stderr.String()
	if strings.Contains(o.stdout+o.stderr, secret) {
		t.Errorf("the password shows: %s%s", o.stdout, o.stderr)
	}
	return o
}

// expect fails the test unless the exit status is as given and the outputs contain the given texts. An empty text stands for
// no output.
func (o outcome) expect(t *testing.T, status int, stdout, stderr string) {
	t.Helper()
	if o.status != status {
		t.Errorf("exit status %d, want %d", o.status, status)
	}
	for _, stream := range []struct{ name, got, want string }{{"stdout", o.stdout, stdout}, {"stderr", o.stderr, stderr}} {
		if !strings.Contains(stream.got, stream.want) || stream.want == "" && stream.got != "" {
			t.Errorf("%s: %q, want %q", stream.name, stream.got, stream.want)
		}
	}
}

// child runs the command as a process of its own. The end of the test kills it.
func child(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"=1", "TERM=xterm")
	return cmd
}

// exitStatus waits for the end of a process and returns its exit status.
func exitStatus(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}
