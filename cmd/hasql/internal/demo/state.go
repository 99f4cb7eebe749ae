package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

// board is the demo as the page shows it. It implements dashboard.Source.
type board struct {
	run      string
	owned    bool // whether the page may break the cluster
	promised bool // whether no write may be lost

	mu      sync.Mutex
	names   []string // of the nodes, once they are known
	stage   *stage   // nil until the workload runs
	verdict string   // at the end of the demo
}

// stage holds what exists once the workload runs.
type stage struct {
	ctx      context.Context // of the actions that the buttons begin
	pm       *hasql.PoolManager
	load     *workload
	keeper   *keeper // nil if the page has no buttons
	postgres string  // version of the server
}

func newBoard(o Options) *board {
	return &board{run: rand.Text(), owned: o.Hold, promised: o.DSN == ""}
}

func (b *board) announce(names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names = names
}

func (b *board) raise(s *stage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stage = s
}

func (b *board) end(verdict string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verdict = verdict
}

func (b *board) present() (s *stage, verdict string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stage, b.verdict
}

// expected returns the nodes before anything is known about them, so that the page can show their cards.
func (b *board) expected() (nodes []dashboard.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range b.names {
		nodes = append(nodes, dashboard.Node{
			Name: name, Role: hasql.RoleUnknown.String(), Status: hasql.StatusSuspect.String(), Cause: "not probed yet", Actions: []string{},
		})
	}
	return nodes
}

// State implements dashboard.Source.
func (b *board) State() dashboard.State {
	state := dashboard.State{
		Run: b.run, Phase: dashboard.Starting, Owned: b.owned, Promised: b.promised,
		Actions: []string{}, Nodes: []dashboard.Node{}, Outages: []dashboard.Outage{}, Events: []dashboard.Event{},
	}
	stage, verdict := b.present()
	if stage == nil {
		state.Nodes = append(state.Nodes, b.expected()...)
		return state
	}
	state.Phase, state.Verdict, state.PostgreSQL = dashboard.Running, verdict, stage.postgres
	if verdict != "" {
		state.Phase = dashboard.Ended
	}
	now := time.Since(stage.load.began)
	state.Now = Millis(now)
	book := stage.load.book
	state.Writes, state.Reads, _ = book.counts(now)
	for _, o := range book.outages() {
		state.Outages = append(state.Outages, shown(o, book.nodes))
	}
	state.Events = append(state.Events, book.told()...)
	for _, n := range stage.pm.Stat().Nodes() {
		state.Nodes = append(state.Nodes, shownNode(n))
	}
	if stage.keeper != nil && verdict == "" {
		busy, cluster, nodes := stage.keeper.offers()
		state.Busy = busy
		state.Actions = append(state.Actions, cluster...)
		for i := range state.Nodes {
			state.Nodes[i].Actions = append(state.Nodes[i].Actions, nodes[i]...)
		}
	}
	return state
}

// Timeline implements dashboard.Source.
func (b *board) Timeline(from int) dashboard.Timeline {
	stage, _ := b.present()
	if stage == nil {
		return dashboard.Timeline{Width: Millis(dashboard.BinWidth), Bins: []dashboard.Bin{}}
	}
	return stage.load.book.timeline(time.Since(stage.load.began), from)
}

// Do implements dashboard.Source.
func (b *board) Do(action, node string) error {
	stage, verdict := b.present()
	if stage == nil || stage.keeper == nil || verdict != "" {
		return fmt.Errorf("%s %s: %w", action, node, dashboard.ErrRefused)
	}
	return stage.keeper.begin(stage.ctx, action, node, func(err error) {
		if err != nil && stage.ctx.Err() == nil {
			stage.load.screen.event(time.Now(), eventError, fmt.Sprintf("%s %s: %s", action, node, brief(err)))
		}
	})
}

func shown(o outage, nodes []string) dashboard.Outage {
	s := dashboard.Outage{
		Kind: o.kind, From: nodes[o.gap.before.node], To: nodes[o.gap.after.node],
		Began: Millis(o.gap.before.done), Ended: Millis(o.gap.after.done), Length: Millis(o.length),
	}
	if o.clusterKnown {
		s.Cluster, s.AfterAccept = new(Millis(o.cluster)), new(Millis(o.afterAccept))
	}
	return s
}

func shownNode(n hasql.NodeStat) dashboard.Node {
	s := dashboard.Node{
		Name: n.Name, Role: n.Role.String(), Status: n.Status.String(), Timeline: n.Report.Timeline, LagBytes: n.LagBytes,
		Latency: Millis(n.Latency), InUse: n.Pool.AcquiredConns(), MaxConns: n.Pool.MaxConns(), Actions: []string{},
	}
	if n.Cause != nil {
		s.Cause = brief(n.Cause)
	}
	if n.LagKnown {
		s.Lag = new(Millis(n.LagTime))
	}
	if n.Age >= 0 {
		s.EvidenceAge = new(Millis(n.Age))
	}
	return s
}
