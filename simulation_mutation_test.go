package hasql

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mutation is a fault put into the library, and the invariant that has to notice.
type mutation struct {
	name      string
	invariant string
	file      string
	old, new  string
}

var mutations = []mutation{
	{
		"a superseded master stays one", "stale", "resolve.go",
		"case n.Status == StatusUp || n.Status == StatusSuspect:",
		"case n.Status == StatusSuspect:",
	},
	{
		"waiters are not woken", "asleep", "cluster.go",
		"\tif differs {\n\t\tclose(prev.changed)\n\t}\n",
		"",
	},
	{
		"the timeline is the last one heard of", "evidence", "resolve.go",
		"s.timeline = max(s.timeline, n.Report.Timeline)",
		"s.timeline = n.Report.Timeline",
	},
	{
		"two masters on one timeline", "sets", "resolve.go",
		"\t\ts.onlyOneMaster(r.downTimeout)\n",
		"",
	},
	{
		"reads go to whatever is up", "lent", "candidates.go",
		"return n.Role == RoleReplica && w.fresh(n)",
		"return n.Role != RoleUnknown && w.fresh(n)",
	},
	{
		"a commit that failed counts as done", "lost", "tx.go",
		"err == nil || nodepool.Committed(t.conn.Conn()) {",
		"nodepool.Of(t.conn.Conn()) != nil {",
	},
	{
		"AcquireTimeout is not heeded", "budget", "acquire.go",
		"if limit := r.criteria.timeout; limit > 0 {",
		"if limit := r.criteria.timeout; limit > time.Hour {",
	},
	{
		"nothing is ever cut", "cut", "pool_manager.go",
		"cut := nodepool.Cut(sockets, reason)",
		"cut := 0",
	},
	{
		"who waits for a node that changed is not told", "asleep", "pool_manager.go",
		"\t\tp.Renew()\n",
		"",
	},
	{
		"monitors do not end", "leak", "pool_manager.go",
		"pm.running.Go(func() { m.run(ctx) })",
		"go m.run(context.WithoutCancel(ctx))",
	},
	{
		"the hunt never ends", "probes", "backoff.go",
		"if since.IsZero() {\n\t\treturn check\n",
		"if since.IsZero() {\n\t\treturn recovery\n",
	},
	{
		"who was fenced once is never dialled again", "liveness", "internal/nodepool/pool.go",
		"\tp.fenced.Store(nil)\n",
		"",
	},
	{
		"a late answer is evidence", "fresh", "monitor.go",
		"if m.took = time.Since(a.sent); m.took > m.checkTimeout {",
		"if m.took = time.Since(a.sent); m.took > time.Hour {",
	},
	{
		"whatever failed is repeated", "twice", "retry.go",
		`if !r.criteria.repeat || was == nil || !pgerr.IsFatal(err, pgerr.AdminShutdown) {`,
		"_ = pgerr.AdminShutdown\n\tif was == nil || !nodepool.IsEnd(err) {",
	},
	{
		"what was in flight is safe to retry", "undone", "internal/nodepool/errors.go",
		"{ return e.peek.Swap(false) }",
		"{ return false }",
	},
	{
		"a session that began read-only is believed for ever", "liveness", "monitor.go",
		"m.conn == nil || !m.dubious() ||",
		"!m.dubious() || true ||",
	},
	{
		"a node that is down is asked no longer than CheckTimeout", "liveness", "monitor.go",
		"m.downProbeTimeout = min(2*m.downProbeTimeout, ",
		"m.downProbeTimeout = min(m.downProbeTimeout, ",
	},
	{
		"a replica that has diverged is read from", "diverged", "lag.go",
		"if n.diverged != nil && n.Status == StatusUp {",
		"if n.diverged != nil && n.Status == StatusDown {",
	},
	{
		"how far a replica is does not count", "at-least", "candidates.go",
		" && n.Report.LSN >= w.atLeast",
		"",
	},
	{
		"every lag is within the limit", "lag", "candidates.go",
		"n.LagTime <= w.maxLag",
		"n.LagTime <= w.maxLag+time.Hour",
	},
	{
		"who is not listed any more gets work", "members", "change.go",
		"\t\tcase s.mayLeave(n):\n\t\t\tn.takeOut(StatusBanned, errUnlisted)\n",
		"",
	},
	{
		"a list without the master drops it", "members", "change.go",
		"return n.unlisted && n.node != s.incumbent",
		"return n.unlisted",
	},
	{
		"an answer without nodes empties the cluster", "members", "finder.go",
		"\tfound, err := discovery.Normalize(found)\n\tif err != nil {",
		"\tfound, err := discovery.Normalize(found)\n\tif err != nil && len(found) > 0 {",
	},
	{
		"who is listed again leaves nevertheless", "members", "change.go",
		"\t\tknown.unlisted = false\n",
		"",
	},
	{
		"the last snapshot does not say that it is", "close", "change.go",
		"\tlast.closed = true\n",
		"",
	},
}

// TestSimulationBites shows that the invariants can fail, by the first two mutations.
func TestSimulationBites(t *testing.T) { bite(t, mutations[:2]) }

// TestMutationsAreUpToDate finds the mutations whose code was changed. To build and try them all takes minutes.
func TestMutationsAreUpToDate(t *testing.T) {
	for _, m := range mutations {
		m.applied(t)
	}
}

// TestSimulateMutations is the part of "make simulate" that tries all of them.
func TestSimulateMutations(t *testing.T) {
	if os.Getenv(seedsEnv) == "" || os.Getenv(seedEnv) != "" {
		t.Skip("SEEDS is not set")
	}
	bite(t, mutations)
}

// bite runs mutations of the library until each has broken the invariant that has to notice.
func bite(t *testing.T, mutations []mutation) {
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			w := ownWorkers(t)
			w.binary = m.build(t)
			var noticed string
			var other []string
			w.run(seeds(1, 400), func(r result) bool {
				for _, f := range r.Failures {
					if f.Invariant == m.invariant {
						noticed = r.Spec
					} else if !slices.Contains(other, f.Invariant) {
						other = append(other, f.Invariant)
					}
				}
				return noticed == ""
			})
			if noticed == "" {
				t.Fatalf("the invariant %q has not noticed; others: %v", m.invariant, other)
			}
			t.Logf("%q noticed with seed %s, besides %v", m.invariant, noticed, other)
		})
	}
}

// applied returns the source with the mutation in it.
func (m *mutation) applied(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		t.Fatalf("%s is out of date: %s has %d times what it replaces, instead of once:\n%s", m.name, m.file, n, m.old)
	}
	return strings.Replace(string(source), m.old, m.new, 1)
}

// build compiles these tests with the mutation in the library.
func (m *mutation) build(t *testing.T) (binary string) {
	t.Helper()
	source := m.applied(t)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mutated := write(filepath.Base(m.file), []byte(source))
	original, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "mutant")
	out, err := exec.Command("go", "test", "-c", "-overlay", write("overlay.json", overlay), "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("this mutation does not compile: %v\n%s", err, out)
	}
	return binary
}
