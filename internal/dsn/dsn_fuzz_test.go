package dsn_test

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

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/dsn"
	"github.com/pghasql/hasql/internal/testenv"
)

// FuzzDSN compares our reading of a DSN, up to the nodes that it leads to, with that of libpq itself.
func FuzzDSN(f *testing.F) {
	testenv.Services(f)
	libpq := startLibpq(f)
	f.Fuzz(func(t *testing.T, dsn string) {
		if why := disagreement(differences, read(t, dsn), libpq.read(t, dsn)); why != "" {
			t.Errorf("%q: %s", dsn, why)
		}
	})
}

// TestEachDifferenceIsOne keeps the table of differences from having rows that nothing needs.
func TestEachDifferenceIsOne(t *testing.T) {
	testenv.Services(t)
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
func read(t testing.TB, text string) reading {
	t.Helper()
	c, err := hasql.ParseConfig(text)
	if err != nil {
		refusal, ok := errors.AsType[*hasql.ConfigError](err)
		if !ok || len(refusal.Problems) == 0 {
			t.Fatalf("%q: not a ConfigError with problems: %v", text, err)
		}
		return reading{dsn: text, problems: refusal.Problems}
	}
	d, err := dsn.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var distinct []dsn.Endpoint
	for _, e := range d.Endpoints {
		if !slices.Contains(distinct, e) {
			distinct = append(distinct, e)
		}
	}
	if len(distinct) != len(c.Nodes) {
		t.Fatalf("%q: %d nodes for %d hosts", text, len(c.Nodes), len(distinct))
	}
	r := reading{dsn: text}
	for i, n := range c.Nodes {
		conn := n.Pool.ConnConfig
		r.user, r.database = conn.User, cmp.Or(conn.Database, conn.User) // if none is sent, the server takes the user's name
		addr := ""
		if distinct[i].Addr != "" {
			found, err := conn.LookupFunc(t.Context(), conn.Host)
			if err != nil {
				t.Fatalf("%q: %s is looked up: %v", text, n.Name, err)
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
