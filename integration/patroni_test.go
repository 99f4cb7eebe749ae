package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/integration/internal/patroni"
	"github.com/pghasql/hasql/internal/workload"
)

// TestPatroni breaks one Patroni cluster in one way after the other, under a service that writes and reads, and prints how
// long it could not write next to how long nobody could. With HASQL_PATRONI_RUNS=5 in the environment it does so five
// times and prints the medians, as docs/performance.md shows them.
func TestPatroni(t *testing.T) {
	t.Parallel()
	cluster := startPatroni(t)
	t.Run("restart of etcd", func(t *testing.T) { testEtcdRestart(t, cluster) })
	var all figures
	for range patroniRuns(t) {
		for _, fault := range patroniFaults {
			t.Run(fault.name, func(t *testing.T) { all = append(all, testPatroniFault(t, cluster, fault)) })
		}
	}
	t.Log("from the last write that the old leader accepted to the first that the new one did, medians:\n" + all.table())
}

// startPatroni starts a cluster of three, closed by the test's end. Without Patroni the test is skipped, or fails where
// HASQL_REQUIRE_PATRONI=1 says that there must be one.
func startPatroni(t *testing.T) *patroni.Cluster {
	t.Helper()
	return startPatroniOf(t, 3)
}

func startPatroniOf(t *testing.T, members int) *patroni.Cluster {
	t.Helper()
	cluster, err := patroni.Start(testContext(t), patroni.Options{Members: members, Logf: t.Logf})
	if errors.Is(err, patroni.ErrMissing) && os.Getenv("HASQL_REQUIRE_PATRONI") != "1" {
		t.Skipf("skipped, because Patroni is missing: %v", err)
	}
	unavailable(t, err)
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

func patroniRuns(t *testing.T) int {
	runs := os.Getenv("HASQL_PATRONI_RUNS")
	if runs == "" {
		return 1
	}
	n, err := strconv.Atoi(runs)
	must(t, err)
	return n
}

// patroniFault ends the lead of a member, and returns once nothing but Patroni is needed to make another the leader.
type patroniFault struct {
	name string
	do   func(*patroniTest)
}

var patroniFaults = []patroniFault{
	{"switchover", func(p *patroniTest) { must(p.t, p.cluster.Switchover(p.ctx, p.old, p.next)) }},
	{"kill -9 of PostgreSQL", func(p *patroniTest) { must(p.t, p.old.KillPostgres(p.ctx)) }},
	{"kill -9 of Patroni and PostgreSQL", func(p *patroniTest) { must(p.t, p.old.Kill(p.ctx)) }},
	{"the same during a pause", func(p *patroniTest) {
		must(p.t, p.cluster.Pause(p.ctx))
		must(p.t, p.old.Kill(p.ctx))
		must(p.t, p.cluster.Leaderless(p.ctx))
		must(p.t, p.cluster.NextRound(p.ctx)) // in which another would have been promoted
		p.waitsForMaster()
		must(p.t, p.cluster.Resume(p.ctx))
	}},
}

// patroniTest is a service on a healthy cluster.
type patroniTest struct {
	t       *testing.T
	ctx     context.Context
	cluster *patroni.Cluster
	old     *patroni.Member // the leader
	next    *patroni.Member // the only one that Patroni may promote, as it alone has every write that was acknowledged
	m       *manager
	w       *writers
	r       *reader
}

const patroniWriters = 2

func startPatroniTest(t *testing.T, cluster *patroni.Cluster) *patroniTest {
	t.Helper()
	p := &patroniTest{t: t, ctx: testContext(t), cluster: cluster}
	must(t, cluster.Healthy(p.ctx))
	var err error
	p.old, err = cluster.Leader(p.ctx)
	must(t, err)
	p.next, err = cluster.Synchronous(p.ctx)
	must(t, err)
	p.m = open(t, cluster.DSN())
	must(t, p.m.Ready(p.ctx, 1, 2))
	p.m.awaitMaster(p.old)
	_, err = p.m.Master().Exec(p.ctx, "drop table if exists writes")
	must(t, err)
	p.w, p.r = startWriters(t, p.m, patroniWriters), startReader(t, p.m)
	p.w.progress(20)
	p.r.progress(20)
	return p
}

// waitsForMaster checks that the service knows of no master and says why, and that reads go on.
func (p *patroniTest) waitsForMaster() {
	p.t.Helper()
	p.m.awaitStatus(p.old, hasql.StatusDown)
	p.r.progress(20)
	_, err := p.m.AcquireMaster(canceled())
	if _, ok := errors.AsType[*hasql.NoNodeError](err); !ok || !strings.Contains(err.Error(), "no master") ||
		!strings.Contains(err.Error(), p.old.Addr()+" down") || !strings.Contains(err.Error(), p.next.Addr()+" up replica") {
		p.t.Errorf("with the leader dead and none promoted, an acquire got: %v", err)
	}
}

func testEtcdRestart(t *testing.T, cluster *patroni.Cluster) {
	p := startPatroniTest(t, cluster)
	mark := p.m.mark()
	must(t, cluster.RestartEtcd(p.ctx))
	must(t, cluster.NextRound(p.ctx))
	p.w.progress(20)
	p.r.progress(20)
	p.m.undisturbed(mark)
	p.r.end()
	p.w.end(p.old)
}

func testPatroniFault(t *testing.T, cluster *patroni.Cluster, fault patroniFault) figure {
	p := startPatroniTest(t, cluster)
	direct := startProbers(p)
	direct.await(p, p.old)
	mark := p.m.mark()
	fault.do(p)
	p.m.awaitMaster(p.next)
	p.w.progress(20)
	direct.await(p, p.next)
	leader, err := cluster.Leader(p.ctx)
	must(t, err)
	if leader != p.next {
		t.Errorf("Patroni made %s the leader, not %s", leader.Name(), p.next.Name())
	}

	must(t, p.old.Rejoin(p.ctx))
	must(t, p.m.Ready(p.ctx, 1, 2))
	awaitRead(t, p.m, p.m.Replica(), p.old)
	p.w.progress(20)
	p.r.end(append(p.restarted(mark), p.old)...)
	p.w.end(p.next, p.old)
	direct.end()

	if failed := len(p.w.failures); failed > patroniWriters {
		t.Errorf("%d writes failed, more than one in flight of each writer: %v", failed, p.w.failures)
	}
	if f := p.w.spans[p.old.Addr()]; !f.last.Before(p.w.spans[p.next.Addr()].first) {
		t.Error("the old leader acknowledged a write after the new one did")
	}
	if s := state(p.m.Snapshot(), p.old); s.Role != hasql.RoleReplica || s.Status != hasql.StatusUp || !s.Report.InRecovery {
		t.Errorf("the old leader has rejoined, and is %s", s.String())
	}
	events, _ := p.m.seen()
	for _, e := range events[mark:] {
		if !e.master && e.new.Role == hasql.RoleMaster && e.new.Name != p.next.Addr() {
			t.Errorf("another than the new leader was taken for the master: %v", e)
		}
	}
	f := figure{fault: fault.name, patroni: direct.spans.gap(p.old, p.next), service: p.w.spans.gap(p.old, p.next)}
	t.Logf("nobody could write for %v, the service for %v", f.patroni, f.service)
	return f
}

// restarted returns the members that have been down since a mark. Patroni may restart also the member that has nothing to do with
// the fault, to rewind it behind the new leader.
func (p *patroniTest) restarted(mark int) (members []node) {
	events, _ := p.m.seen()
	for _, m := range p.cluster.Members() {
		if slices.ContainsFunc(events[mark:], func(e event) bool {
			return !e.master && e.new.Name == m.Addr() && e.new.Status == hasql.StatusDown
		}) {
			members = append(members, m)
		}
	}
	return members
}

// probers write to every member over connections of their own, to see when it accepts that.
type probers struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	spans    spans
	accepted map[string]chan struct{} // by address; closed once a member has accepted a write
}

// probePace is the time between two probes of a member that is no leader.
const probePace = 5 * time.Millisecond

func startProbers(p *patroniTest) *probers {
	_, err := p.m.Master().Exec(p.ctx, workload.ProbeSchema)
	must(p.t, err)
	ctx, stop := context.WithCancel(p.ctx)
	all := &probers{stop: stop, spans: make(spans), accepted: make(map[string]chan struct{})}
	p.t.Cleanup(all.end)
	for _, m := range p.cluster.Members() {
		all.accepted[m.Addr()] = make(chan struct{})
	}
	for _, m := range p.cluster.Members() {
		prober := &workload.Prober{
			Connect: m.Conn, Pace: probePace, Accepted: func(time.Time, time.Time, uint32) { all.note(m) },
		}
		all.done.Go(func() { prober.Run(ctx) })
	}
	return all
}

func (all *probers) note(m *patroni.Member) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if _, known := all.spans[m.Addr()]; !known {
		close(all.accepted[m.Addr()])
	}
	all.spans.note(m.Addr())
}

// await waits until a member has accepted a write.
func (all *probers) await(p *patroniTest, m *patroni.Member) {
	p.t.Helper()
	select {
	case <-all.accepted[m.Addr()]:
	case <-p.ctx.Done():
		p.t.Fatalf("%s accepted no write", m.Addr())
	}
}

func (all *probers) end() {
	all.stop()
	all.done.Wait()
}

// figure is what one fault cost.
type figure struct {
	fault            string
	patroni, service time.Duration
}

type figures []figure

// table shows the medians for each fault in the order of their first figures.
func (all figures) table() string {
	var b strings.Builder
	b.WriteString("| fault | outage of Patroni, ms | of the service, ms | difference, ms | runs |\n|---|---|---|---|---|\n")
	for _, fault := range patroniFaults {
		var patroni, service, difference []time.Duration
		for _, f := range all {
			if f.fault == fault.name {
				patroni, service = append(patroni, f.patroni), append(service, f.service)
				difference = append(difference, f.service-f.patroni)
			}
		}
		if len(patroni) > 0 {
			fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.1f | %d |\n", fault.name, median(patroni), median(service), median(difference), len(patroni))
		}
	}
	return b.String()
}

// median returns the median in milliseconds.
func median(d []time.Duration) float64 {
	m, _, _ := workload.Spread(d)
	return float64(m) / float64(time.Millisecond)
}
