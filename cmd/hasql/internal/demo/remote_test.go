package demo

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// log collects the output of a demo. It may be read while the demo runs.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestSomebodysClusterIsWatched fails over a cluster that the demo did not start.
func TestSomebodysClusterIsWatched(t *testing.T) {
	t.Parallel()
	cluster, err := pgcluster.Start(t.Context(), pgcluster.Options{Replicas: 1})
	if errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	old, next := cluster.Nodes()[0], cluster.Nodes()[1]
	demo := start(t, Options{DSN: cluster.DSN() + "&hasql_fallback_master=true"})
	until := demo.until

	until("the first writes", func(s dashboardState) bool { return s.Writes.Acknowledged > 100 && s.Reads.Answered > 100 })
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := next.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	until("the outage was told", func(s dashboardState) bool {
		return slices.ContainsFunc(s.Events, func(e event) bool {
			return e.Kind == eventOutage && strings.Contains(e.Text, old.Addr()+" → "+next.Addr())
		})
	})
	s := until("the prober had seen it too", func(s dashboardState) bool {
		return slices.ContainsFunc(s.Outages, func(o outageState) bool {
			return o.Kind == kindFailover && o.From == old.Addr() && o.To == next.Addr() && o.Length > 0 && o.Cluster != nil && *o.Cluster > 0
		})
	})
	if s.Owned || len(s.Actions) > 0 || len(s.Nodes[0].Actions) > 0 {
		t.Errorf("somebody's cluster can be broken: %+v", s)
	}
	until("writes went on", func(later dashboardState) bool { return later.Writes.Acknowledged > s.Writes.Acknowledged+100 })

	demo.end()
	for _, want := range []string{old.Addr() + " → " + next.Addr(), " writes acknowledged, "} {
		if !strings.Contains(demo.out.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, demo.out.String())
		}
	}
}

// running is a demo that runs until it is ended.
type running struct {
	t         *testing.T
	page      string
	out       *log
	interrupt context.CancelFunc
	ended     chan error
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	r := &running{t, "http://" + listener.Addr().String(), new(log), interrupt, make(chan error, 1)}
	o.Listen, o.Out = listener, r.out
	go func() {
		_, err := Run(ctx, o)
		r.ended <- err
	}()
	return r
}

// until waits for a state of the page.
func (r *running) until(what string, is func(s dashboardState) bool) (s dashboardState) {
	r.t.Helper()
	for {
		s = stateOf(r.t, r.page)
		if is(s) {
			return s
		}
		select {
		case err := <-r.ended:
			r.t.Fatalf("it ended before %s: %v\n%s", what, err, r.out.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (r *running) end() {
	r.t.Helper()
	r.interrupt()
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
}

// dashboardState is what a client reads of a dashboard.State. The durations in State can only be written as JSON.
type dashboardState struct {
	Run     string
	Owned   bool
	Paused  bool
	Actions []string
	Nodes   []struct {
		Name, Role, Status string
		Actions            []string
	}
	Writes  struct{ Acknowledged int }
	Reads   struct{ Answered int }
	Events  []event
	Outages []outageState
}

type event struct{ Kind, Text string }

type outageState struct {
	Kind, From, To string
	Length         float64  `json:"outage_ms"`
	Cluster        *float64 `json:"cluster_outage_ms"`
}

func stateOf(t *testing.T, page string) (s dashboardState) {
	t.Helper()
	answer, err := http.Get(page + "/api/state")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}
