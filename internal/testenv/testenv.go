// Package testenv keeps the environment of whoever runs the tests out of them.
package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Isolate removes libpq's environment variables, and puts an empty home directory in the place of the user's, until the test
// ends. It returns that directory. The test must not be parallel.
func Isolate(t testing.TB) (home string) {
	t.Helper()
	home = t.TempDir()
	for _, env := range os.Environ() {
		if name, _, _ := strings.Cut(env, "="); strings.HasPrefix(name, "PG") {
			t.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("HOME", home)
	return home
}

// Services isolates the test and leaves a service file of its own, with the services shop and empty, and no password file:
// which host's password that holds depends on host and user.
func Services(t testing.TB) {
	t.Helper()
	home := Isolate(t)
	services := filepath.Join(home, "pg_service.conf")
	if err := os.WriteFile(services, []byte("[shop]\nhost=s1,s2\nport=7\ndbname=x\n\n[empty]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", services)
	t.Setenv("PGSYSCONFDIR", home)
}
