package hasql

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// FuzzDSN compares our reading of a DSN with that of libpq itself.
func FuzzDSN(f *testing.F) {
	isolateDSN(f)
	libpq := startLibpq(f)
	f.Fuzz(func(t *testing.T, dsn string) {
		if why := disagreement(differences, read(t, dsn), libpq.read(t, dsn)); why != "" {
			t.Errorf("%q: %s", dsn, why)
		}
	})
}

// TestEachDifferenceIsOne keeps the table of differences from having rows that nothing needs.
func TestEachDifferenceIsOne(t *testing.T) {
	isolateDSN(t)
	libpq := startLibpq(t)
	for i, d := range differences {
		t.Run(d.name, func(t *testing.T) {
			dsn := seed(t, d.seed)
			ours, theirs := read(t, dsn), libpq.read(t, dsn)
			if v := theirs.version; v < d.since || d.before != 0 && v >= d.before {
				t.Skipf("libpq %d reads it as we do", v)
			}
			others := slices.Delete(slices.Clone(differences), i, i+1)
			if disagreement(others, ours, theirs) == "" {
				t.Errorf("%q shows no such difference", dsn)
			}
		})
	}
}

// disagreement says where two readings differ that should not.
func disagreement(accepted []difference, ours, theirs reading) string {
	switch {
	case ours.problems != nil && theirs.problems != nil:
		return ""
	case ours.problems != nil:
		for _, p := range ours.problems {
			if !slices.ContainsFunc(accepted, func(d difference) bool { return d.excuses(d.refused, p, ours, theirs) }) {
				return "we refuse it and libpq doesn't: " + p
			}
		}
		return ""
	case theirs.problems != nil:
		if p := theirs.problems[0]; !slices.ContainsFunc(accepted, func(d difference) bool { return d.excuses(d.accepted, p, ours, theirs) }) {
			return "libpq refuses it and we don't: " + p
		}
		return ""
	}
	for _, d := range accepted {
		if d.adapt != nil {
			d.adapt(ours, &theirs)
		}
	}
	if ours.user != theirs.user || ours.database != theirs.database || !slices.Equal(ours.hosts, theirs.hosts) {
		return fmt.Sprintf("\nwe     %+v\nlibpq  %+v", ours, theirs)
	}
	return ""
}

// read is our reading of a DSN.
func read(t testing.TB, dsn string) reading {
	t.Helper()
	c, err := ParseConfig(dsn)
	if err != nil {
		refusal, ok := errors.AsType[*ConfigError](err)
		if !ok || len(refusal.Problems) == 0 {
			t.Fatalf("%q: not a ConfigError with problems: %v", dsn, err)
		}
		return reading{dsn: dsn, problems: refusal.Problems}
	}
	endpoints, _, err := splitDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	var distinct []endpoint
	for _, e := range endpoints {
		if !slices.Contains(distinct, e) {
			distinct = append(distinct, e)
		}
	}
	if len(distinct) != len(c.Nodes) {
		t.Fatalf("%q: %d nodes for %d hosts", dsn, len(c.Nodes), len(distinct))
	}
	r := reading{dsn: dsn}
	for i, n := range c.Nodes {
		conn := n.Pool.ConnConfig
		r.user, r.database = conn.User, cmp.Or(conn.Database, conn.User) // if none is sent, the server takes the user's name
		addr := ""
		if distinct[i].addr != "" {
			found, err := conn.LookupFunc(t.Context(), conn.Host)
			if err != nil {
				t.Fatalf("%q: %s is looked up: %v", dsn, n.Name, err)
			}
			addr = found[0]
		}
		r.hosts = append(r.hosts, newDial(conn.Host, addr, strconv.Itoa(int(conn.Port)), conn.Password))
	}
	return r
}

func seed(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "fuzz", "FuzzDSN", name))
	if err != nil {
		t.Fatal(err)
	}
	_, quoted, _ := strings.Cut(string(text), "string(")
	dsn, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(quoted), ")"))
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

// isolateDSN leaves a service file of the test's own, and no password file: which host's password it holds depends on
// host and user, and would show each accepted difference of these twice.
func isolateDSN(t testing.TB) {
	t.Helper()
	home := isolate(t)
	services := filepath.Join(home, "pg_service.conf")
	if err := os.WriteFile(services, []byte("[shop]\nhost=s1,s2\nport=7\ndbname=x\n\n[empty]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", services)
	t.Setenv("PGSYSCONFDIR", home)
}
