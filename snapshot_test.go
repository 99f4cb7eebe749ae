package hasql

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/nodepool"
)

// world is a cluster without servers: a snapshot that tests feed with observations. Every node was probed once, in vain.
type world struct {
	s     *Snapshot
	rules ruleSettings
	now   time.Time
	probe uint64
}

func newWorld(nodes int) *world {
	w := &world{now: time.Unix(1_000_000, 0), rules: ruleSettings{downTimeout: 3 * time.Second}}
	m := membership{at: w.now}
	for i := range nodes {
		m.members = append(m.members, asConfigured([]*node{fakeNode(i)})...)
	}
	w.s = reduce(&Snapshot{at: w.now, noMasterSince: w.now}, m, w.rules)
	for i := range w.s.nodes {
		w.s.nodes[i].CheckedAt = w.now
	}
	return w
}

// fakeNode is a node without a server.
func fakeNode(i int) *node {
	name := fmt.Sprintf("pg%d", i)
	return &node{config: NodeConfig{Name: name}, address: address{host: name}, load: nodepool.NewLoad(10), checks: newChecks()}
}

// node returns the i-th node.
func (w *world) node(i int) *node { return w.s.nodes[i].node }

// place returns which node it is.
func (s *Snapshot) place(n *node) int {
	return slices.IndexFunc(s.nodes, func(m NodeState) bool { return m.node == n })
}

const cluster1, cluster2 = 71, 72

func master(timeline uint32, lsn LSN) Report {
	return Report{Role: RoleMaster, SystemID: cluster1, Timeline: timeline, LSN: lsn, StartTime: time.Unix(int64(timeline), 0)}
}

func replica(lsn LSN) Report {
	return Report{Role: RoleReplica, InRecovery: true, SystemID: cluster1, LSN: lsn}
}

// sees is a probe answered after 1 ms.
func (w *world) sees(node int, r Report) *world {
	sent := w.now
	w.now = w.now.Add(time.Millisecond)
	w.probe++
	w.s = reduce(w.s, observation{node: w.node(node), probe: w.probe, sent: sent, at: w.now, report: &r}, w.rules)
	return w
}

// unheard makes it a world in which nobody was probed yet.
func (w *world) unheard() *world {
	for i := range w.s.nodes {
		w.s.nodes[i].CheckedAt = time.Time{}
	}
	return w
}

func (w *world) loses(node int, status Status) *world {
	sent := w.now
	w.now = w.now.Add(time.Millisecond)
	w.probe++
	w.s = reduce(w.s, observation{node: w.node(node), probe: w.probe, sent: sent, at: w.now, status: status, cause: errUnanswered}, w.rules)
	return w
}

func (w *world) after(d time.Duration) *world {
	w.now = w.now.Add(d)
	return w
}

// view is the roles of all nodes, or their statuses where they have none: "M R stale".
func (w *world) view() string {
	var parts []string
	for n := range w.s.Nodes() {
		switch n.Role {
		case RoleMaster:
			parts = append(parts, "M")
		case RoleReplica:
			parts = append(parts, "R")
		default:
			parts = append(parts, n.Status.String())
		}
	}
	return strings.Join(parts, " ")
}

func TestReduce(t *testing.T) {
	with := func(r Report, change func(*Report)) Report { change(&r); return r }
	foreign := func(r Report) Report { return with(r, func(r *Report) { r.SystemID = cluster2 }) }
	bare := func(role Role) Report { return Report{Role: role, InRecovery: role == RoleReplica} }
	for _, test := range []struct {
		name string
		do   func(w *world)
		want string
	}{
		{"nothing heard", func(w *world) {}, "suspect suspect suspect"},
		{"a healthy cluster", func(w *world) { w.sees(0, master(1, 9)).sees(1, replica(9)).sees(2, replica(9)) }, "M R R"},
		{"a role is not guessed", func(w *world) { w.sees(0, Report{SystemID: cluster1}) }, "suspect suspect suspect"},
		{"suspect has no role", func(w *world) { w.sees(0, master(1, 9)).loses(0, StatusSuspect) }, "suspect suspect suspect"},
		{"suspect comes back", func(w *world) { w.sees(0, master(1, 9)).loses(0, StatusSuspect).sees(0, master(1, 9)) }, "M suspect suspect"},
		{"down", func(w *world) { w.sees(0, master(1, 9)).loses(0, StatusDown) }, "down suspect suspect"},
		{
			"failover",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(1, replica(9)).loses(0, StatusDown).sees(1, master(2, 10))
			}, "down M suspect",
		},
		{
			"a thawed master is stale",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(1, replica(9)).loses(0, StatusSuspect).sees(1, master(2, 10)).sees(0, master(1, 11))
			}, "stale M suspect",
		},
		{
			"a hung master is stale the moment a new one is seen",
			func(w *world) { w.sees(0, master(1, 9)).loses(0, StatusSuspect).sees(1, master(2, 10)) }, "stale M suspect",
		},
		{
			"and stays so while it hangs",
			func(w *world) {
				w.sees(0, master(1, 9)).loses(0, StatusSuspect).sees(1, master(2, 10)).loses(0, StatusSuspect)
			}, "stale M suspect",
		},
		{
			"a hung replica is not",
			func(w *world) { w.sees(0, replica(9)).loses(0, StatusSuspect).sees(1, master(2, 10)) }, "suspect M suspect",
		},
		{
			"it is stale the moment the new one is seen",
			func(w *world) { w.sees(0, master(1, 9)).sees(1, master(2, 9)) }, "stale M suspect",
		},
		{
			"never back to a lower timeline, even when the new master has gone",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(1, master(2, 9)).loses(1, StatusDown).sees(0, master(1, 9))
			}, "stale down suspect",
		},
		{
			"a stale master that is set read-only is stale",
			func(w *world) {
				w.sees(1, master(2, 9)).sees(0, with(master(1, 9), func(r *Report) { r.Role = RoleReplica }))
			}, "stale M suspect",
		},
		{
			"a stale master that rejoins is a replica",
			func(w *world) { w.sees(0, master(1, 9)).sees(1, master(2, 9)).sees(0, replica(9)) }, "R M suspect",
		},
		{
			"a master set read-only is a replica",
			func(w *world) { w.sees(0, with(master(1, 9), func(r *Report) { r.Role = RoleReplica })) }, "R suspect suspect",
		},
		{
			"two masters on one timeline: the incumbent stays",
			func(w *world) {
				w.sees(1, master(1, 9)).sees(0, with(master(1, 9), func(r *Report) { r.StartTime = time.Unix(5, 0) }))
			}, "stale M suspect",
		},
		{
			"two masters on one timeline, the incumbent gone: the other may",
			func(w *world) {
				w.sees(1, master(1, 9)).sees(0, with(master(1, 9), func(r *Report) { r.StartTime = time.Unix(5, 0) })).loses(1, StatusDown)
			}, "M down suspect",
		},
		{
			"a known timeline outweighs the incumbent, which tells none",
			func(w *world) { w.sees(0, bare(RoleMaster)).sees(1, master(2, 9)) }, "stale M suspect",
		},
		{
			"and the node before it in the configuration",
			func(w *world) { w.sees(1, master(2, 9)).sees(0, bare(RoleMaster)) }, "stale M suspect",
		},
		{
			"and the incumbent, which tells none and hangs",
			func(w *world) { w.sees(0, bare(RoleMaster)).loses(0, StatusSuspect).sees(1, master(2, 9)) }, "suspect M suspect",
		},
		{
			"a hung incumbent of a known timeline outweighs one that tells none",
			func(w *world) { w.sees(0, master(1, 9)).loses(0, StatusSuspect).sees(1, bare(RoleMaster)) }, "suspect stale suspect",
		},
		{
			"a master whose probe is refused lately is superseded all the same",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(0, bare(RoleMaster)).sees(1, master(2, 9)).loses(1, StatusDown)
			}, "stale down suspect",
		},
		{
			"a master whose probe is refused lately keeps off the one before it",
			func(w *world) { w.sees(0, master(2, 9)).sees(0, bare(RoleMaster)).sees(1, master(1, 9)) }, "M stale suspect",
		},
		{
			"a timeline is not kept through recovery",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(1, master(2, 9)).sees(0, bare(RoleReplica)).loses(1, StatusDown).sees(0, bare(RoleMaster))
			}, "M down suspect",
		},
		{"two names of one server", func(w *world) { w.sees(0, master(1, 9)).sees(1, master(1, 9)) }, "M M suspect"},
		{"two masters without timelines", func(w *world) { w.sees(1, bare(RoleMaster)).sees(0, bare(RoleMaster)) }, "stale M suspect"},
		{"a cluster without timelines", func(w *world) { w.sees(0, bare(RoleMaster)).sees(1, bare(RoleReplica)) }, "M R suspect"},
		{"several masters where that is meant", func(w *world) {
			w.rules.multiMaster = true
			w.sees(0, master(1, 9)).sees(1, master(2, 9))
		}, "M M suspect"},
		{"several masters may have identifiers of their own", func(w *world) {
			w.rules.multiMaster = true
			w.unheard().sees(0, master(1, 9)).sees(1, foreign(master(2, 9))).sees(2, foreign(replica(9)))
		}, "M M R"},
		{"nobody waits for the others where they may differ", func(w *world) {
			w.rules.multiMaster = true
			w.unheard().sees(1, foreign(replica(9))).sees(0, master(1, 9))
		}, "M R suspect"},
		{
			"a standby of a stale master is left out where it may be known",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(2, with(replica(9), func(r *Report) { r.Timeline = 1 })).sees(1, master(2, 9))
			}, "stale M suspect",
		},
		{
			"a standby knows of a newer master first",
			func(w *world) { w.sees(0, master(1, 9)).sees(2, with(replica(9), func(r *Report) { r.Timeline = 2 })) }, "stale suspect R",
		},
		{"no majority, no master", func(w *world) {
			w.rules.requireMajority = true
			w.sees(0, master(1, 9))
		}, "suspect suspect suspect"},
		{"a majority", func(w *world) {
			w.rules.requireMajority = true
			w.sees(0, master(1, 9)).sees(1, replica(9))
		}, "M R suspect"},
		{"a majority lost", func(w *world) {
			w.rules.requireMajority = true
			w.sees(0, master(1, 9)).sees(1, replica(9)).loses(1, StatusSuspect)
		}, "suspect suspect suspect"},
		{"foreign", func(w *world) { w.sees(0, master(1, 9)).sees(1, replica(9)).sees(2, foreign(replica(9))) }, "M R foreign"},
		{
			"foreign, though it was heard first",
			func(w *world) { w.unheard().sees(2, foreign(master(5, 9))).sees(0, master(1, 9)).sees(1, replica(9)) }, "M R foreign",
		},
		{
			"foreign masters are never used, even alone",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(1, replica(9)).sees(2, foreign(master(9, 9))).loses(0, StatusDown).loses(1, StatusDown)
			}, "down down foreign",
		},
		{
			"nobody is used until it is known which cluster this is",
			func(w *world) { w.unheard().sees(2, foreign(master(5, 9))) }, "suspect suspect suspect",
		},
		{
			"more than half agree, the rest was not heard yet",
			func(w *world) { w.unheard().sees(0, master(1, 9)).sees(1, replica(9)) }, "M R suspect",
		},
		{
			"the only node that is up, the others were heard to be down",
			func(w *world) { w.unheard().loses(1, StatusDown).loses(2, StatusDown).sees(0, master(1, 9)) }, "M down down",
		},
		{
			"a re-created node was alone when the service started",
			func(w *world) {
				w.unheard().loses(1, StatusDown).loses(2, StatusDown).sees(0, foreign(master(1, 9))).sees(1, master(3, 9)).sees(2, replica(9))
			}, "foreign M R",
		},
		{
			"pg_upgrade, and one node is not back yet",
			func(w *world) {
				w.sees(0, master(7, 9)).sees(1, replica(9)).sees(2, replica(9)).loses(2, StatusDown)
				w.sees(0, foreign(master(1, 9))).sees(1, foreign(replica(9)))
			}, "M R down",
		},
		{
			"a node that does not tell is not foreign, and no vote",
			func(w *world) { w.sees(0, master(1, 9)).sees(1, bare(RoleReplica)) }, "M R suspect",
		},
		{
			"a superseded master that no longer tells its timeline is superseded still",
			func(w *world) {
				w.sees(0, master(1, 9)).sees(1, master(2, 9)).sees(0, bare(RoleMaster)).loses(1, StatusDown)
			}, "stale down suspect",
		},
		{
			"two masters on one timeline, the incumbent merely hangs",
			func(w *world) {
				w.sees(1, master(1, 9)).sees(0, with(master(1, 9), func(r *Report) { r.StartTime = time.Unix(5, 0) })).loses(1, StatusSuspect)
			}, "stale suspect suspect",
		},
		{
			"two masters that tell no timeline, the incumbent merely hangs",
			func(w *world) {
				w.sees(1, bare(RoleMaster)).loses(1, StatusSuspect).sees(0, bare(RoleMaster))
				w.after(2*time.Second).loses(1, StatusSuspect).sees(0, bare(RoleMaster))
			}, "stale suspect suspect",
		},
		{
			"and refuses our login for longer than a silent node is waited for",
			func(w *world) {
				w.sees(1, bare(RoleMaster)).loses(1, StatusSuspect).sees(0, bare(RoleMaster))
				w.after(2*time.Second).loses(1, StatusSuspect).after(time.Second).sees(0, bare(RoleMaster))
			}, "M stale suspect",
		},
		{
			"and then goes on refusing",
			func(w *world) {
				w.sees(1, bare(RoleMaster)).loses(1, StatusSuspect)
				w.after(3*time.Second).sees(0, bare(RoleMaster)).loses(1, StatusSuspect)
			}, "M stale suspect",
		},
		{
			"and then comes back as a replica",
			func(w *world) {
				w.sees(1, bare(RoleMaster)).loses(1, StatusSuspect)
				w.after(3*time.Second).sees(0, bare(RoleMaster)).sees(1, bare(RoleReplica))
			}, "M R suspect",
		},
		{
			"and then comes back as a master",
			func(w *world) {
				w.sees(1, bare(RoleMaster)).loses(1, StatusSuspect)
				w.after(3*time.Second).sees(0, bare(RoleMaster)).sees(1, bare(RoleMaster))
			}, "M stale suspect",
		},
		{
			"an answer in between begins the wait anew",
			func(w *world) {
				w.sees(1, bare(RoleMaster)).loses(1, StatusSuspect).sees(0, bare(RoleMaster))
				w.after(2*time.Second).sees(1, bare(RoleMaster)).after(time.Second).loses(1, StatusSuspect).sees(0, bare(RoleMaster))
			}, "stale suspect suspect",
		},
		{
			"silence makes a node that is down no better",
			func(w *world) { w.sees(0, master(1, 9)).loses(0, StatusDown).loses(0, StatusSuspect) }, "down suspect suspect",
		},
		{"a role that does not exist", func(w *world) { w.sees(0, Report{Role: 7, SystemID: cluster1}) }, "suspect suspect suspect"},
		{"foreigners are no majority", func(w *world) {
			w.rules.requireMajority = true
			w.sees(0, master(1, 9)).sees(1, replica(9)).loses(1, StatusDown).sees(2, foreign(replica(9)))
		}, "suspect down foreign"},
		{
			"all nodes agree on another cluster, as after pg_upgrade, whatever its timeline",
			func(w *world) {
				w.sees(0, master(7, 9)).sees(1, replica(9)).sees(2, replica(9))
				w.sees(0, foreign(master(1, 9))).sees(1, foreign(replica(9))).sees(2, foreign(replica(9)))
			}, "M R R",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(3)
			test.do(w)
			if got := w.view(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			for n := range w.s.Nodes() {
				if (n.Cause == nil) != (n.Status == StatusUp) {
					t.Errorf("%s is %s because of %v", n.Name, n.Status, n.Cause)
				}
				if n.Role != RoleUnknown && n.Status != StatusUp {
					t.Errorf("%s is %s and has the role %s", n.Name, n.Status, n.Role)
				}
			}
		})
	}
}

func TestReduceOfAClusterThatWasRolledBack(t *testing.T) {
	// received is what a standby tells to a role with pg_monitor.
	received := func(timeline uint32, start int64) Report {
		r := replica(9)
		r.Timeline, r.StartTime = timeline, time.Unix(start, 0)
		return r
	}
	promoted := func(w *world) *world { return w.sees(0, master(1, 9)).sees(1, master(2, 10)) }
	for _, test := range []struct {
		name string
		do   func(w *world)
		want string
	}{
		{"who was on the newer timeline receives the older", func(w *world) { promoted(w).sees(1, received(1, 8)) }, "M R suspect"},
		{"as all do who were", func(w *world) { promoted(w).sees(2, received(2, 7)).sees(1, received(1, 8)).sees(2, received(1, 9)) }, "M R R"},
		{"but one", func(w *world) { promoted(w).sees(2, received(2, 7)).sees(1, received(1, 8)) }, "stale suspect R"},
		{"but one that is silent", func(w *world) {
			promoted(w).sees(2, received(2, 7)).loses(2, StatusDown).sees(1, received(1, 8))
		}, "stale suspect down"},
		{"but now it is silent itself", func(w *world) {
			promoted(w).sees(2, received(2, 7)).sees(1, received(1, 8)).loses(1, StatusSuspect).sees(2, received(1, 9))
		}, "stale suspect suspect"},
		{"it does not tell what it receives", func(w *world) { promoted(w).sees(1, replica(9)) }, "stale R suspect"},
		{"it is out of recovery: its name may lead elsewhere", func(w *world) {
			old := master(1, 9)
			old.StartTime = time.Unix(8, 0)
			promoted(w).sees(1, old)
		}, "stale stale suspect"},
		{"its name leads to another node", func(w *world) { promoted(w).sees(2, received(1, 7)).sees(1, received(1, 7)) }, "stale suspect suspect"},
		{"it does not tell which server it is", func(w *world) {
			r := received(1, 8)
			r.StartTime = time.Time{}
			promoted(w).sees(1, r)
		}, "stale suspect suspect"},
		{"by two timelines", func(w *world) {
			promoted(w).sees(2, master(3, 10)).sees(2, received(1, 8)).sees(1, received(1, 9))
		}, "M R R"},
		{"and promoted again", func(w *world) { promoted(w).sees(1, received(1, 8)).sees(1, master(2, 11)) }, "stale M suspect"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(3)
			test.do(w)
			if got := w.view(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestCauseOfAStaleNodeNamesTheRemedyWhereThereMayBeOne(t *testing.T) {
	w := newWorld(2).sees(0, master(1, 9)).sees(1, master(2, 10))
	if got, want := w.s.nodes[0].Cause.Error(), "on timeline 1, superseded by timeline 2"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	w.loses(1, StatusDown)
	if got := w.s.nodes[0].Cause.Error(); !strings.Contains(got, "superseded by timeline 2, which no node is on now") || !strings.Contains(got, "ForgetCluster") {
		t.Errorf("%q names no remedy", got)
	}
}

func TestIdentityOfTwoNodes(t *testing.T) {
	foreign := func(r Report) Report { r.SystemID = cluster2; return r }
	for _, test := range []struct {
		name string
		do   func(w *world)
		want string
	}{
		{"the first that is named needs no other", func(w *world) { w.unheard().sees(0, master(1, 9)) }, "M suspect"},
		{"the second may be foreign", func(w *world) { w.unheard().sees(1, master(1, 9)) }, "suspect suspect"},
		{"and is where the first says so", func(w *world) { w.unheard().sees(1, master(1, 9)).sees(0, foreign(master(1, 9))) }, "M foreign"},
		{"it is not where the first is silent", func(w *world) { w.unheard().sees(1, master(1, 9)).loses(0, StatusSuspect) }, "suspect M"},
		{"the first stays, whatever the second says", func(w *world) { w.unheard().sees(0, master(1, 9)).sees(1, foreign(master(1, 9))) }, "M foreign"},
		{"pg_upgrade, and the other is not back yet", func(w *world) {
			w.sees(0, master(7, 9)).sees(1, replica(9)).loses(1, StatusDown).loses(0, StatusDown).sees(0, foreign(master(1, 9)))
		}, "M down"},
		{"the other is back as it was", func(w *world) {
			w.sees(0, master(7, 9)).sees(1, replica(9)).loses(1, StatusDown).sees(0, foreign(master(1, 9))).sees(1, master(8, 9))
		}, "M foreign"},
		{"the other is back, upgraded", func(w *world) {
			w.sees(0, master(7, 9)).sees(1, replica(9)).loses(1, StatusDown).sees(0, foreign(master(1, 9))).sees(1, foreign(replica(9)))
		}, "M R"},
		{"another cluster while the other is up", func(w *world) {
			w.sees(0, master(7, 9)).sees(1, replica(9)).sees(0, foreign(master(1, 9)))
		}, "foreign R"},
		{"and foreign it stays", func(w *world) {
			w.sees(0, master(7, 9)).sees(1, replica(9)).sees(0, foreign(master(1, 9))).loses(1, StatusDown).sees(0, foreign(master(1, 9)))
		}, "foreign down"},
		{"another cluster while the other hangs", func(w *world) {
			w.sees(0, master(7, 9)).sees(1, replica(9)).loses(1, StatusSuspect).sees(0, foreign(master(1, 9)))
		}, "foreign suspect"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(2)
			test.do(w)
			if got := w.view(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestForget(t *testing.T) {
	w := newWorld(3).sees(0, master(1, 9)).sees(1, master(2, 10)).loses(1, StatusDown)
	if got := w.view(); got != "stale down suspect" {
		t.Fatal(got)
	}
	before := w.s
	w.s = reduce(before, forgetOrder{w.after(time.Second).now}, w.rules)
	if got := w.view(); got != "suspect suspect suspect" {
		t.Errorf("forgotten: %s", got)
	}
	if !w.s.noMasterSince.Equal(before.noMasterSince) {
		t.Error("the time without a master is another one")
	}
	if got := w.sees(0, master(1, 9)).view(); got != "suspect suspect suspect" {
		t.Errorf("one of three was heard: %s", got)
	}
	if got := w.loses(1, StatusDown).sees(2, replica(9)).view(); got != "M down R" {
		t.Errorf("learnt anew: %s", got)
	}
	r := master(2, 10)
	late := observation{node: w.node(1), probe: 1, sent: w.now, at: w.now, report: &r}
	if next := reduce(w.s, late, w.rules); next != w.s {
		t.Error("evidence of before was taken for newer")
	}
}

func TestReduceIgnoresOlderEvidence(t *testing.T) {
	w := newWorld(2).sees(0, master(1, 9))
	old := w.probe
	w.after(time.Second).sees(0, replica(9))
	r := master(1, 9)
	for name, o := range map[string]observation{
		"an older answer":         {node: w.node(0), probe: old, at: w.now.Add(time.Second), report: &r},
		"an older silence":        {node: w.node(0), probe: old, at: w.now.Add(time.Second), status: StatusDown, cause: errUnanswered},
		"an answer given up late": {node: w.node(0), probe: w.probe, at: w.now, status: StatusSuspect, cause: errUnanswered},
	} {
		if next := reduce(w.s, o, ruleSettings{}); next != w.s {
			t.Errorf("%s changed the snapshot", name)
		}
	}
}

func TestReduceLeavesThePreviousSnapshotAlone(t *testing.T) {
	w := newWorld(3).sees(0, master(1, 9)).sees(1, replica(5))
	before, was := w.s, fmt.Sprintf("%+v %+v", w.s.nodes, w.s.wal)
	w.sees(0, master(1, 20)).sees(1, master(2, 30)).loses(2, StatusDown)
	if is := fmt.Sprintf("%+v %+v", before.nodes, before.wal); is != was {
		t.Errorf("a published snapshot changed:\n%s\n%s", was, is)
	}
}

func TestReduceKeepsTimeWithoutMaster(t *testing.T) {
	w := newWorld(2)
	if w.s.noMasterSince.IsZero() {
		t.Error("a new cluster knows no master")
	}
	w.sees(0, master(1, 9)).sees(1, replica(9))
	if !w.s.noMasterSince.IsZero() {
		t.Error("a master is known")
	}
	w.after(time.Minute).loses(0, StatusDown)
	lost := w.now
	w.after(time.Second).loses(0, StatusDown)
	if !w.s.noMasterSince.Equal(lost) {
		t.Errorf("lost at %v, not %v", w.s.noMasterSince, lost)
	}
}

// TestReduceInvariants feeds random evidence and checks what must hold whatever is seen.
func TestReduceInvariants(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(1 + random.IntN(4))
		w.rules.multiMaster = random.IntN(8) == 0
		var highest uint32
		for range 200 {
			node := random.IntN(len(w.s.nodes))
			prev := w.s
			switch random.IntN(4) {
			case 0:
				w.loses(node, []Status{StatusSuspect, StatusDown}[random.IntN(2)])
			case 1:
				w.sees(node, replica(LSN(random.IntN(100))))
			default:
				r := master(uint32(random.IntN(4)), LSN(random.IntN(100)))
				r.SystemID = []uint64{0, cluster1, cluster1, cluster1, cluster2}[random.IntN(5)]
				r.Role = Role(random.IntN(3))
				w.sees(node, r)
			}
			if w.s.identity != prev.identity {
				highest = 0
			}
			check(t, seed, prev, w.s, w.rules.multiMaster, &highest)
		}
	}
}

func check(t *testing.T, seed uint64, prev, s *Snapshot, multi bool, highest *uint32) {
	t.Helper()
	*highest = max(*highest, s.timeline)
	var masters []NodeState
	for n := range s.Nodes() {
		if !multi && n.Status == StatusUp && n.Report.SystemID != 0 && n.Report.SystemID != s.identity {
			t.Fatalf("seed %d: %s is foreign and up", seed, n.Name)
		}
		if n.Role == RoleMaster {
			masters = append(masters, n)
			if tl := n.Report.Timeline; !multi && tl != 0 && tl < *highest {
				t.Fatalf("seed %d: the master is on timeline %d after %d", seed, tl, *highest)
			}
		}
		if n.LagTime < 0 {
			t.Fatalf("seed %d: negative lag", seed)
		}
		if was := prev.state(n.node); n.CheckedAt.Before(was.CheckedAt) || n.ReportedAt.Before(was.ReportedAt) {
			t.Fatalf("seed %d: the evidence for %s went back in time", seed, n.Name)
		}
	}
	for i := range masters {
		if !multi && !masters[i].Report.samePostmaster(&masters[0].Report) && i > 0 {
			t.Fatalf("seed %d: two masters: %v", seed, masters)
		}
	}
	if (len(masters) == 0) == s.noMasterSince.IsZero() {
		t.Fatalf("seed %d: %d masters, lost at %v", seed, len(masters), s.noMasterSince)
	}
}

func TestLag(t *testing.T) {
	lag := func(w *world) string {
		n := w.s.nodes[1]
		if !n.LagKnown {
			return "unknown"
		}
		return fmt.Sprintf("%d bytes %v", n.LagBytes, n.LagTime.Round(time.Second/10))
	}
	behind := func(lsn LSN, replayed time.Duration) Report {
		r := replica(lsn)
		r.ReplayDelay = replayed
		return r
	}
	for _, test := range []struct {
		name string
		do   func(w *world)
		want string
	}{
		{"no master seen", func(w *world) { w.sees(1, replica(5)) }, "unknown"},
		{"no master seen, and no position told, but its own word", func(w *world) { w.sees(1, behind(0, 3*time.Second)) }, "0 bytes 3s"},
		{
			"no master seen: a transaction of long ago does not mean that there are newer ones",
			func(w *world) { w.sees(1, behind(5, time.Hour)).sees(2, behind(5, time.Hour)) }, "unknown",
		},
		{
			"no master seen, but a replica that has more, and had it 4 s ago",
			func(w *world) {
				w.sees(2, behind(500, time.Hour)).after(4*time.Second).sees(1, behind(400, 3*time.Second))
			}, "100 bytes 4s",
		},
		{
			"the master takes the place of the replica that stood in for it",
			func(w *world) {
				w.sees(2, replica(500)).after(time.Second).sees(0, master(1, 400)).sees(1, replica(400))
			}, "0 bytes 0s",
		},
		{
			"a master that tells its position no more",
			func(w *world) { w.sees(0, master(1, 100)).sees(1, replica(100)).sees(0, master(1, 0)) }, "unknown",
		},
		{
			"a master that was set read-only",
			func(w *world) {
				r := master(1, 300)
				r.Role = RoleReplica
				w.sees(0, master(1, 100)).sees(1, replica(100)).after(time.Second).sees(0, r).after(time.Second).sees(1, replica(100))
			}, "0 bytes 2s",
		},
		{
			"a replica of another one of several masters",
			func(w *world) {
				w.rules.multiMaster = true
				r := behind(5, 3*time.Second)
				r.SystemID = cluster2
				w.sees(0, master(1, 500)).sees(1, r)
			}, "0 bytes 3s",
		},
		{"a master that tells no position", func(w *world) { w.sees(0, master(1, 0)).sees(1, replica(5)) }, "unknown"},
		{"level", func(w *world) { w.sees(0, master(1, 100)).sees(1, behind(100, time.Hour)) }, "0 bytes 0s"},
		{"ahead of the last probe of the master", func(w *world) { w.sees(0, master(1, 100)).sees(1, replica(120)) }, "0 bytes 0s"},
		{
			"an idle master is not lag",
			func(w *world) {
				w.sees(0, master(1, 100)).after(time.Minute).sees(0, master(1, 100)).sees(1, behind(100, time.Minute))
			}, "0 bytes 0s",
		},
		{
			"cut off from a master that goes on, by the samples",
			func(w *world) {
				w.sees(0, master(1, 100)).sees(1, replica(100))
				for i := range LSN(10) {
					w.after(time.Second).sees(0, master(1, 110+i*10))
				}
				w.after(time.Second).sees(1, behind(100, time.Hour))
			}, "100 bytes 11s",
		},
		{
			"its own word is between the samples",
			func(w *world) {
				w.sees(0, master(1, 100)).after(10*time.Second).sees(0, master(1, 200)).after(time.Second).sees(1, behind(150, 4*time.Second))
			}, "50 bytes 4s",
		},
		{
			"its own word is too small",
			func(w *world) {
				w.sees(0, master(1, 100)).sees(0, master(1, 200)).after(9*time.Second).sees(1, behind(150, time.Second))
			}, "50 bytes 9s",
		},
		{
			"a record of a minute ago replayed a moment late on an idle master",
			func(w *world) {
				w.sees(0, master(1, 100)).after(time.Second).sees(0, master(1, 110)).sees(1, behind(100, time.Hour))
			}, "10 bytes 1s",
		},
		{
			"kept while there is no master",
			func(w *world) {
				w.sees(0, master(1, 100)).after(time.Second).sees(0, master(1, 200)).loses(0, StatusDown).after(time.Second).sees(1, replica(150))
			}, "50 bytes 1s",
		},
		{
			"level with a master that was lost: what that wrote since may be lacking",
			func(w *world) {
				w.sees(0, master(1, 100)).sees(1, replica(100)).loses(0, StatusSuspect).after(16*time.Second).sees(1, behind(100, time.Hour))
			}, "0 bytes 16s",
		},
		{
			"the same, and it tells of no transaction",
			func(w *world) {
				w.sees(0, master(1, 100)).sees(1, replica(100)).loses(0, StatusSuspect).after(16*time.Second).sees(1, replica(100))
			}, "0 bytes 16s",
		},
		{
			"it hears of a master that we do not hear of",
			func(w *world) {
				w.sees(0, master(1, 100)).sees(1, replica(100)).loses(0, StatusSuspect).after(16*time.Second).sees(1, behind(300, time.Second))
			}, "0 bytes 1s",
		},
		{
			"the clock of its master is ahead of its own",
			func(w *world) {
				w.sees(0, master(1, 100)).sees(1, replica(100)).loses(0, StatusSuspect).after(16*time.Second).sees(1, behind(300, -time.Second))
			}, "0 bytes 0s",
		},
		{
			"a new master starts a new history",
			func(w *world) {
				w.sees(0, master(1, 500)).sees(2, master(2, 300)).sees(1, replica(300))
			}, "0 bytes 0s",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(3)
			test.do(w)
			if got := lag(w); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestDivergence(t *testing.T) {
	started := func(r Report, at int64) Report { r.StartTime = time.Unix(at, 0); return r }
	told := func(r Report, timeline uint32) Report { r.Timeline = timeline; return r }
	// diverged makes node 1 a replica that is proven to have diverged.
	diverged := func(w *world) *world {
		return w.sees(0, master(2, 100)).sees(1, started(replica(150), 7)).after(time.Second).sees(0, master(2, 120))
	}
	for _, test := range []struct {
		name string
		do   func(w *world)
		want string
	}{
		{"beyond what the master said before", func(w *world) { w.sees(0, master(2, 100)).after(time.Second).sees(1, replica(150)) }, "M R suspect"},
		{"beyond what the master said later", func(w *world) { diverged(w) }, "M suspect suspect"},
		{"as far as the master said later", func(w *world) {
			w.sees(0, master(2, 100)).sees(1, replica(150)).after(time.Second).sees(0, master(2, 150))
		}, "M R suspect"},
		{"the master was asked when the answer came", func(w *world) {
			w.sees(0, master(2, 100)).sees(1, replica(150)).sees(0, master(2, 120))
		}, "M R suspect"},
		{"the master was asked before the replica said the same again", func(w *world) {
			w.sees(0, master(2, 100)).sees(1, started(replica(150), 7)).after(time.Second)
			sent, r := w.now, master(2, 120)
			w.after(time.Millisecond).sees(1, started(replica(150), 7))
			w.s = reduce(w.s, observation{node: w.node(0), probe: 9, sent: sent, at: w.now, report: &r}, w.rules)
		}, "M suspect suspect"},
		{"the later answer is heard of first", func(w *world) {
			sent, r := w.now, replica(150)
			w.after(time.Second).sees(0, master(2, 120))
			w.s = reduce(w.s, observation{node: w.node(1), probe: 1, sent: sent, at: sent.Add(time.Millisecond), report: &r}, w.rules)
		}, "M suspect suspect"},
		{"it stays so when the master is beyond it", func(w *world) { diverged(w).sees(0, master(2, 900)).sees(1, started(replica(150), 7)) }, "M suspect suspect"},
		{"also when it says less for a while", func(w *world) {
			diverged(w).sees(0, master(2, 900)).sees(1, replica(0)).sees(1, started(replica(150), 7))
		}, "M suspect suspect"},
		{"and while it hangs, and after", func(w *world) {
			diverged(w).sees(0, master(2, 900)).loses(1, StatusSuspect).sees(1, started(replica(150), 7))
		}, "M suspect suspect"},
		{"until it was restarted", func(w *world) { diverged(w).sees(0, master(2, 900)).sees(1, started(replica(150), 8)) }, "M R suspect"},
		{"restarted as it was", func(w *world) {
			diverged(w).sees(1, started(replica(150), 8)).after(time.Second).sees(0, master(2, 130))
		}, "M suspect suspect"},
		{"until it receives the master's timeline", func(w *world) {
			diverged(w).sees(0, master(2, 900)).sees(1, told(started(replica(800), 7), 2))
		}, "M R suspect"},
		{"until there is a newer timeline, of which it may be", func(w *world) { diverged(w).sees(2, master(3, 150)) }, "stale R M"},
		{"until it is the master itself", func(w *world) {
			diverged(w).sees(1, started(master(3, 160), 7))
		}, "stale M suspect"},
		{"of a server that does not tell when it began, as long as it is beyond", func(w *world) {
			w.sees(0, master(2, 100)).sees(1, replica(150)).after(time.Second).sees(0, master(2, 120)).sees(0, master(2, 900)).sees(1, replica(150))
		}, "M R suspect"},
		{"the end of a segment that was switched is told before the master has written it", func(w *world) {
			w.sees(0, master(2, 100)).sees(1, replica(16<<20)).after(time.Second).sees(0, master(2, 120))
		}, "M R suspect"},
		{"nothing is compared where there are several masters", func(w *world) {
			w.rules.multiMaster = true
			diverged(w)
		}, "M R suspect"},
		{"the positions of another cluster mean nothing", func(w *world) {
			other := replica(150)
			other.SystemID = cluster2
			w.sees(0, master(2, 100)).sees(2, replica(100)).sees(1, other).after(time.Second).sees(0, master(2, 120))
		}, "M foreign R"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(3)
			test.do(w)
			if got := w.view(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
	w := newWorld(3)
	diverged(w)
	if want := "pg1 suspect: diverged: it has replayed WAL up to 0/96, but the master pg0 was only at 0/78 later; rewind or rebuild it"; w.s.nodes[1].String() != want {
		t.Errorf("%s, want %s", w.s.nodes[1].String(), want)
	}
	for _, r := range []criteria{{target: TargetReplica, atLeast: 110}, {target: TargetReplica, maxLag: time.Hour}, {target: TargetAny, atLeast: 110}} {
		if c := w.s.candidates(&r, nil); slices.ContainsFunc(c.fit, func(c Candidate) bool { return c.node == w.node(1) }) {
			t.Errorf("%+v is met by a replica that has diverged", r)
		}
	}
}

func TestLagHistoryIsBounded(t *testing.T) {
	w := newWorld(2)
	for i := range LSN(1000) {
		w.after(time.Second).sees(0, master(1, i+1))
	}
	if len(w.s.wal) != walSamples {
		t.Errorf("%d samples", len(w.s.wal))
	}
	w.sees(1, replica(1))
	if n := w.s.nodes[1]; n.LagTime < (walSamples-2)*time.Second {
		t.Errorf("lag %v of a replica behind all samples", n.LagTime)
	}
}

func TestCandidates(t *testing.T) {
	lagging := replica(50)
	build := func(view string) *world {
		w := newWorld(4)
		for i, c := range view {
			switch c {
			case 'M':
				w.sees(i, master(1, 100)).after(5*time.Second).sees(i, master(1, 200)).after(3 * time.Second)
			case 'R':
				w.sees(i, replica(200))
			case 'L':
				w.sees(i, lagging)
			case 'S':
				w.sees(i, replica(0))
			case 'D':
				w.loses(i, StatusDown)
			}
		}
		w.s.nodes[2].Zone, w.s.nodes[3].Zone = "b", "b"
		w.s.nodes[1].Tags, w.s.nodes[3].Tags = map[string]string{"sync_standby": "true"}, map[string]string{"quorum_standby": "true"}
		return w
	}
	read := func(options ...RouteOption) criteria {
		w := criteria{target: TargetReplica}
		for _, o := range options {
			o(&w)
		}
		return w
	}
	for _, test := range []struct {
		name, view string
		want       criteria
		fit, share []int
		rest       [][]int
	}{
		{"master", "MRRD", criteria{target: TargetMaster}, []int{0}, nil, nil},
		{"no master", "DRR", criteria{target: TargetMaster}, nil, nil, nil},
		{"replicas", "MRRD", read(), []int{1, 2}, nil, nil},
		{"no replica", "MDDD", read(), nil, nil, nil},
		{"fallback", "MDDD", read(WithFallbackMaster(true)), []int{0}, nil, nil},
		{"no fallback where a replica fits", "MDRD", read(WithFallbackMaster(true)), []int{2}, nil, nil},
		{"prefer replica", "MDDD", criteria{target: TargetPreferReplica}, []int{0}, nil, nil},
		{"any", "MRDR", criteria{target: TargetAny}, []int{0, 1, 3}, nil, nil},
		{"share", "MRRD", read(WithMasterAsReplicaWeight(0.5)), []int{1, 2}, []int{0}, nil},
		{"share above one", "MRRD", read(WithMasterAsReplicaWeight(7)), []int{1, 2}, []int{0}, nil},
		{"no share where nobody is to share with", "MDDD", read(WithMasterAsReplicaWeight(0.5)), nil, nil, nil},
		{"nor where no replica fits", "MLLL", read(WithMasterAsReplicaWeight(0.5), WithMaxLag(time.Second)), nil, nil, nil},
		{"no share, but a fallback", "MDDD", read(WithMasterAsReplicaWeight(0.5), WithFallbackMaster(true)), []int{0}, nil, nil},
		{"all, whether there are replicas", "MDDD", read(WithMasterAsReplicaWeight(1)), nil, []int{0}, nil},
		{"lag", "MLRD", read(WithMaxLag(time.Second)), []int{2}, nil, nil},
		{"lag within the limit", "MLRD", read(WithMaxLag(time.Minute)), []int{1, 2}, nil, nil},
		{"all lag, fallback", "MLLL", read(WithMaxLag(time.Second), WithFallbackMaster(true)), []int{0}, nil, nil},
		{"nothing is known to be newer", "DRDD", read(WithMaxLag(time.Minute)), []int{1}, nil, nil},
		{"nothing told is not within a limit", "MSDD", read(WithMaxLag(time.Minute)), nil, nil, nil},
		{"zone", "MRRR", read(WithZone("b")), []int{2, 3}, nil, [][]int{{1}}},
		{"synchronous standbys", "MRRR", read(WithSynchronous(true)), []int{1, 3}, nil, [][]int{{2}}},
		{"zone, then synchronous standbys", "MRRR", read(WithZone("b"), WithSynchronous(true)), []int{3}, nil, [][]int{{2}, {1}}},
		{"no synchronous standby", "MDRD", read(WithSynchronous(true)), []int{2}, nil, nil},
		{"another zone's synchronous standby", "MRDD", read(WithZone("b"), WithSynchronous(true)), []int{1}, nil, nil},
		{"zone without a node", "MRDD", read(WithZone("b")), []int{1}, nil, nil},
		{"at least", "MLRD", read(AtLeast(150)), []int{2}, nil, nil},
		{"at least what nobody has", "MRRD", read(AtLeast(900)), nil, nil, nil},
		{"at least what nobody has, fallback", "MRRD", read(AtLeast(900), WithFallbackMaster(true)), []int{0}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := build(test.view)
			index := func(cs []Candidate) (list []int) {
				for _, c := range cs {
					list = append(list, w.s.place(c.node))
				}
				return list
			}
			got := w.s.candidates(&test.want, nil)
			if !slices.Equal(index(got.fit), test.fit) || !slices.Equal(index(got.masters), test.share) {
				t.Errorf("got %v and %v, want %v and %v", index(got.fit), index(got.masters), test.fit, test.share)
			}
			var rest [][]int
			for _, group := range got.rest {
				rest = append(rest, index(group))
			}
			if !slices.EqualFunc(rest, test.rest, slices.Equal) {
				t.Errorf("the rest is %v, not %v", rest, test.rest)
			}
		})
	}
}

func TestLSN(t *testing.T) {
	for _, text := range []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"} {
		if lsn, err := ParseLSN(text); err != nil || lsn.String() != text {
			t.Errorf("%s: %v, %v", text, lsn, err)
		}
	}
	for _, text := range []string{"", "1", "x/1", "1/x", "1/2/3", "100000000/0"} {
		if lsn, err := ParseLSN(text); err == nil {
			t.Errorf("%q was read as %v", text, lsn)
		}
	}
}

func TestNodeStateString(t *testing.T) {
	w := newWorld(2).sees(0, master(1, 9))
	w.s.nodes[1].Cause = errors.New("several\n\tlines")
	for i, want := range []string{"pg0 up master, 0 of 10 connections in use", "pg1 suspect: several lines"} {
		if got := w.s.nodes[i].String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
