package hasql

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/random"
	"github.com/pghasql/hasql/internal/testenv"
)

// A simulation runs the library against a cluster in memory, in virtual time, while one thing after the other goes wrong
// as a seed decides, and looks at every turn whether what is promised holds. Its parts, a file each:
//
//	schedule    what a seed means: a set-up and the steps
//	truth       the cluster as it is, and what each step does to it
//	client      what a service would do meanwhile
//	invariant   what must hold
//	workers     many seeds, in processes of their own
//	shrink      the fewest steps that still fail
//	mutation    broken versions of the library, which must fail
//
// "make simulate" runs many seeds, and SEED=… one of them with all that happened.
type simulation struct {
	plan  plan
	truth *truth
	pm    *PoolManager
	began time.Time

	stop    context.CancelFunc // ends what clients are about to begin
	running context.Context
	clients []*client

	mu        sync.Mutex
	trace     []event
	failures  []failure
	histories [3][]historyEntry // of each node, as the hooks were told
	lends     []lend            // not looked at yet
	acks      []string          // of writes
	written   LSN               // where the last of them is
	asked     map[string]bool   // every write
	undoing   map[string]string // writes that had no effect, and who said so
	proofs    [3]proof
	demands   atomic.Int64 // reads that demanded something of a replica
	failovers int
	reads     int       // that succeeded
	calmSince time.Time // from when on nothing may fail, zero if not yet
	closed    bool      // whether Close was called

	windows  [3]window
	sleepers map[*client]sleep
}

// event is one line of the trace.
type event struct {
	at   time.Duration
	what string
	why  string // not part of the digest: it may name what differs from run to run
}

// failure is an invariant that did not hold, for the first time in a run.
type failure struct {
	Invariant string
	What      string
	At        time.Duration
}

// result is what one run showed.
type result struct {
	Spec      string
	Failures  []failure
	Failovers int // that the library saw
	Writes    int // that were acknowledged
	Reads     int
	Virtual   time.Duration
	Steps     string // digest of the schedule
	Digest    string // of the trace
	Trace     []string
}

// simulate runs one plan and tells what came of it. It does so inside the bubble, which what is left of a run that failed
// may keep from ever ending.
func simulate(t *testing.T, sp spec, tell func(result)) {
	testenv.Bubble(t, func(t *testing.T) {
		s := &simulation{
			plan: sp.plan(), began: time.Now(),
			asked: make(map[string]bool), undoing: make(map[string]string),
		}
		defer random.Replace(seeded(s.plan.seed, s.began))()
		s.run(t)
		tell(s.result(sp))
	})
}

// seeded returns draws that depend on the seed, the moment, and how many were made at this moment, not on all that were
// made before: so what runs in another order once does not make all the rest another run.
func seeded(seed uint64, began time.Time) func() uint64 {
	var mu sync.Mutex
	var last time.Duration
	var turn uint64
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Since(began); now == last {
			turn++
		} else {
			last, turn = now, 0
		}
		source := rand.NewPCG(seed, uint64(last)<<8+turn)
		return source.Uint64()
	}
}

func (s *simulation) run(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	s.truth = newTruth(&s.plan)
	s.open(t)
	for i := range 4 {
		c := &client{s: s, id: i, draws: rand.New(rand.NewPCG(s.plan.seed, uint64(100+i)))}
		s.clients = append(s.clients, c)
		go c.run()
	}
	go s.follow()
	for _, step := range s.plan.steps {
		s.until(s.began.Add(step.at))
		s.note(step.String(), "")
		if s.do(step); step.do == doClosing {
			break
		}
		synctest.Wait()
		s.look()
	}
	if !s.closed {
		s.recover()
	}
	s.close()
	s.leave(goroutines)
}

// open makes the PoolManager.
func (s *simulation) open(t *testing.T) {
	config, err := ParseConfig(s.truth.fake.DSN() + "&pool_max_conns=" + fmt.Sprint(s.plan.maxConns))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range config.Nodes {
		n.Pool.ConnConfig.DialFunc = s.truth.dial(n.Pool.ConnConfig.Host)
		n.Pool.ConnConfig.LookupFunc = s.truth.lookup
	}
	config.CheckInterval, config.RecoveryInterval = s.plan.checkInterval, s.plan.recoveryInterval
	config.CheckTimeout = min(DefaultCheckTimeout, s.plan.checkInterval)
	config.DownTimeout, config.AcquireTimeout = s.plan.downTimeout, s.plan.acquireTimeout
	config.FallbackMaster = s.plan.fallback
	config.Discoverer, config.DiscoveryInterval = s.truth, simulatedDiscovery
	config.Hooks = Hooks{NodeChanged: s.nodeChanged, MasterChanged: s.masterChanged}
	for i := range s.histories {
		s.histories[i] = []historyEntry{{at: s.began}}
	}
	s.running, s.stop = context.WithCancel(context.Background())
	if s.pm, err = NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// until lets time pass, and looks around now and then.
func (s *simulation) until(at time.Time) {
	for left := time.Until(at); left > 0; left = time.Until(at) {
		time.Sleep(min(left, 250*time.Millisecond))
		synctest.Wait()
		s.look()
	}
}

// do takes a step.
func (s *simulation) do(step step) {
	switch step.do {
	case doHog:
		s.hog(step)
	case doLock:
		s.truth.do(step)
		s.crowd(step)
	case doCancelAll:
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.clients {
			if c.cancel != nil {
				c.cancel()
			}
		}
	case doCheck:
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			began := time.Now()
			err := s.pm.WaitNextCheck(ctx)
			s.within("WaitNextCheck", began, time.Second, err)
		}()
	case doClosing:
	default:
		s.truth.do(step)
	}
}

// recover is the end of all faults: soon everything works again, and then nothing fails and nobody asks too often.
func (s *simulation) recover() {
	s.note("all is mended", "")
	s.truth.mendAll()
	ctx, cancel := context.WithTimeout(context.Background(), recoveryBound(s.truth))
	defer cancel()
	if err := s.pm.Ready(ctx, 1, 2); err != nil {
		s.violate("liveness", "%v", err)
		return
	}
	s.note("ready", "")
	s.until(time.Now().Add(2 * time.Second)) // what was begun before may still fail
	s.mu.Lock()
	s.calmSince = time.Now()
	writes, reads := len(s.acks), s.reads
	s.mu.Unlock()
	s.until(time.Now().Add(2 * time.Second))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.acks) == writes || s.reads == reads {
		s.violateLocked("liveness", "%d writes and %d reads in two quiet seconds", len(s.acks)-writes, s.reads-reads)
	}
}

// close ends the PoolManager, perhaps while everything is on fire.
func (s *simulation) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	err := s.pm.Close(ctx)
	s.note("closed", fmt.Sprint(err))
	s.within("Close", began, patience, nil)
	s.stop()
	if _, err := s.pm.AcquireMaster(context.Background()); err != ErrClosed { // itself: the causes of a NoNodeError may have it too
		s.violate("close", "an acquire after Close returned %v", err)
	}
}

// leave mends the cluster and looks at what is left: no socket, no goroutine, and every write that had to survive.
func (s *simulation) leave(goroutines int) {
	s.truth.mendAll()
	time.Sleep(20 * time.Second) // pgx gives a connection that it abandons 15 s
	for _, c := range s.clients {
		if c.doing != "" {
			s.violate("budget", "client %d has not come back from %s", c.id, c.doing)
		}
	}
	for _, n := range s.truth.nodes {
		if left := n.Conns(); left > 0 {
			s.violate("leak", "%d connections to %s are left", left, n.Name())
		}
	}
	s.checkSurvival()
	s.truth.fake.Close()
	synctest.Wait()
	if left := runtime.NumGoroutine(); left > goroutines {
		s.violate("leak", "%d goroutines are left\n%s", left-goroutines, stacks())
	}
}

// stacks are those of the goroutines in the bubble, but for our own.
func stacks() string {
	buffer := make([]byte, 1<<16)
	var ours []string
	for i, stack := range strings.Split(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
		if i > 0 && strings.Contains(stack, "synctest bubble") {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours[:min(len(ours), 5)], "\n\n")
}

func (s *simulation) note(what, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, event{time.Since(s.began), what, why})
}

// simulatedDiscovery is the time between two questions to discovery.
const simulatedDiscovery = 200 * time.Millisecond

// place returns which of the three nodes it is, -1 if it is none.
func (s *simulation) place(n *NodeState) int {
	host := n.node.config.Pool.ConnConfig.Host
	return slices.IndexFunc(s.truth.nodes, func(n *pgfake.Node) bool { return n.Name() == host })
}

// states returns what is known of the three nodes, nil of those that are no members.
func (s *simulation) states(v *Snapshot) (states [3]*NodeState) {
	for i := range v.nodes {
		if at := s.place(&v.nodes[i]); at >= 0 {
			states[at] = &v.nodes[i]
		}
	}
	return states
}

func (s *simulation) nodeChanged(old, new NodeState) {
	s.note(fmt.Sprintf("    %s: %v %v -> %v %v", new.Name, old.Status, old.Role, new.Status, new.Role), fmt.Sprint(new.Cause))
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.place(&new)
	if i < 0 {
		return
	}
	s.histories[i] = append(s.histories[i], historyEntry{time.Now(), new.Status, new.Role})
}

func (s *simulation) masterChanged(old, new NodeState, _ time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if new.Name != "" && old.Name != "" && s.place(&new) != s.place(&old) {
		s.failovers++
	}
}

func (s *simulation) result(sp spec) result {
	r := result{
		Spec: sp.String(), Failures: s.failures, Failovers: s.failovers, Writes: len(s.acks), Reads: s.reads,
	}
	steps, all := fnv.New64a(), fnv.New64a()
	for _, step := range s.plan.steps {
		fmt.Fprintln(steps, step.at, step, step.draw)
	}
	for _, e := range s.trace {
		fmt.Fprintln(all, e.at, e.what)
		r.Trace = append(r.Trace, fmt.Sprintf("%14v %s  %s", e.at, e.what, e.why))
		r.Virtual = e.at
	}
	r.Steps, r.Digest = fmt.Sprintf("%x", steps.Sum64()), fmt.Sprintf("%x", all.Sum64())
	return r
}

// node returns the index of the node with that name.
func (s *simulation) node(host string) int {
	for i, n := range s.truth.nodes {
		if n.Name() == host {
			return i
		}
	}
	panic("no such node: " + host)
}
