package integration

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// suite closes the shared cluster before goroutines are counted.
type suite struct{ *testing.M }

func (s suite) Run() int {
	code := s.M.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster != nil {
		if err := shared.cluster.Close(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			return 1
		}
	}
	return code
}

// shared is a master with two replicas, for all tests that do not damage it or that repair it.
var shared struct {
	mu      sync.Mutex
	cluster *pgcluster.Cluster
}

// calmCluster returns the shared cluster: nodes 0, 1 and 2, of which 0 is the master.
func calmCluster(t testing.TB) *pgcluster.Cluster {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil {
		cluster, err := pgcluster.Start(testContext(t), pgcluster.Options{Replicas: 2})
		unavailable(t, err)
		shared.cluster = cluster
	}
	return shared.cluster
}

// startCluster starts a cluster for one test. The end of the test closes it.
func startCluster(t testing.TB, opts pgcluster.Options) *pgcluster.Cluster {
	t.Helper()
	opts.Logf = t.Logf
	cluster, err := pgcluster.Start(testContext(t), opts)
	unavailable(t, err)
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

// unavailable ends the test if a cluster could not be started. It skips the test if PostgreSQL is missing and not required.
func unavailable(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") != "1" {
		t.Skipf("skipped, because PostgreSQL is missing: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// patience is the time limit of a test. Most tests need milliseconds; those with Patroni need seconds.
const patience = time.Minute

// testContext ends well before the time limit of go test, so that a test that hangs reports where.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
