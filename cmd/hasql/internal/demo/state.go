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
	session *session // nil until the application runs
	verdict string   // at the end of the demo
}

// session holds what exists once the application runs.
type session struct {
	ctx      context.Context // of the actions that the buttons begin
	pm       *hasql.PoolManager
	app      *application
	manager  *failoverManager // nil if the page has no buttons
	postgres string           // version of the server
}

func newBoard(o Options) *board {
	return &board{run: rand.Text(), owned: o.Hold, promised: o.DSN == ""}
}

func (b *board) announce(names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names = names
}

// show makes the page show the session.
func (b *board) show(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.session = s
}

func (b *board) end(verdict string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verdict = verdict
}

func (b *board) present() (s *session, verdict string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.session, b.verdict
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
	session, verdict := b.present()
	if session == nil {
		state.Nodes = append(state.Nodes, b.expected()...)
		return state
	}
	state.Phase, state.Verdict, state.PostgreSQL = dashboard.Running, verdict, session.postgres
	if verdict != "" {
		state.Phase = dashboard.Ended
	}
	now := time.Since(session.app.began)
	state.Now = Millis(now)
	state.Paused = session.pm.Snapshot().Paused()
	recorder := session.app.recorder
	state.Writes, state.Reads, _ = recorder.counts(now)
	for _, o := range recorder.outages() {
		state.Outages = append(state.Outages, shown(o, recorder.nodes))
	}
	state.Events = append(state.Events, recorder.log()...)
	for _, n := range session.pm.Stat().Nodes() {
		state.Nodes = append(state.Nodes, shownNode(n))
	}
	if session.manager != nil && verdict == "" {
		busy, cluster, nodes := session.manager.offers()
		state.Busy = busy
		s := session.pm.Snapshot()
		state.Actions = append(append(state.Actions, cluster...), orderFor(s, ""))
		for i := range state.Nodes {
			n := &state.Nodes[i]
			n.Actions = append(n.Actions, nodes[i]...)
			if order := orderFor(s, n.Name); order != "" {
				n.Actions = append(n.Actions, order)
			}
		}
	}
	return state
}

// Timeline implements dashboard.Source.
func (b *board) Timeline(from int) dashboard.Timeline {
	session, _ := b.present()
	if session == nil {
		return dashboard.Timeline{Width: Millis(dashboard.BinWidth), Bins: []dashboard.Bin{}}
	}
	return session.app.recorder.timeline(time.Since(session.app.began), from)
}

// Do implements dashboard.Source.
func (b *board) Do(action, node string) error {
	session, verdict := b.present()
	if session == nil || session.manager == nil || verdict != "" {
		return fmt.Errorf("%s %s: %w", action, node, dashboard.ErrRefused)
	}
	done := func(err error) {
		if err != nil && session.ctx.Err() == nil {
			session.app.screen.event(time.Now(), eventError, fmt.Sprintf("%s %s: %s", action, node, brief(err)))
		}
	}
	if isOrder(action) {
		return session.order(action, node, done)
	}
	return session.manager.begin(session.ctx, action, node, done)
}

func shown(o outage, nodes []string) dashboard.Outage {
	s := dashboard.Outage{
		Kind: o.kind, From: nodes[o.Before.Node], To: nodes[o.After.Node],
		Began: Millis(o.Before.Done), Ended: Millis(o.After.Done), Length: Millis(o.Length()),
	}
	if o.ClusterKnown {
		s.Cluster, s.AfterAccept = new(Millis(o.Cluster)), new(Millis(o.AfterAccept))
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
