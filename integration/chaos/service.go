package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pghasql/hasql"
)

const (
	writersEach = 2
	readersEach = 1
	maxConns    = writersEach + readersEach // so many connections to one node are never short
)

// service is an application: a PoolManager with clients that know nothing of nodes.
type service struct {
	setting
	nodeAt map[string]int // by the address that it dials
	game   *game
	pm     *hasql.PoolManager
	latest atomic.Pointer[token]

	mu     sync.Mutex
	events []string      // of hooks, in this round
	news   chan struct{} // closed and replaced by each event
}

// majority is the name of the service that trusts no master without one.
const majority = "majority"

// setting is how a service differs from others.
type setting struct {
	name    string
	options string // of its DSN
	proxied bool   // it reaches the nodes through proxies
	simple  bool   // it uses the simple protocol alone
}

// settings of the services. Two share the proxies, so that they may see other things than the rest.
var settings = []setting{
	{name: "direct"},
	{name: "proxied", proxied: true},
	{name: majority, options: "&hasql_require_majority=true", proxied: true},
	{name: "single", options: "&pool_max_conns=1"},
	{name: "simple", options: "&default_query_exec_mode=simple_protocol", simple: true},
}

// token is what a reader needs to see a write.
type token struct {
	change
	lsn   hasql.LSN
	epoch int // in which it holds
}

// open makes the PoolManager. Options of its setting win over those that all have.
func (s *service) open(ctx context.Context, dsn string) error {
	config, err := hasql.ParseConfig(fmt.Sprintf("%s&pool_max_conns=%d&application_name=%s%s", dsn, maxConns, application, s.options))
	if err != nil {
		return err
	}
	config.AcquireTimeout = opLimit
	config.DownTimeout = patience // a machine under load must not look like a dead node; newer masters end what hangs
	s.news = make(chan struct{})
	config.Hooks.NodeChanged = func(old, new hasql.NodeState) {
		s.record(fmt.Sprintf("%s %s -> %s", old.Status, old.Role, new.String()))
	}
	s.pm, err = hasql.NewWithConfig(ctx, config)
	return err
}

func (s *service) record(event string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, fmt.Sprintf("%s %s", time.Now().Format("15:04:05.000"), event))
	close(s.news)
	s.news = make(chan struct{})
}

// told returns the events since the last call.
func (s *service) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.events = nil }()
	return s.events
}

// await blocks until a snapshot satisfies cond, which must be about roles and statuses.
func (s *service) await(ctx context.Context, what string, cond func(*hasql.Snapshot) bool) error {
	for {
		s.mu.Lock()
		news := s.news
		s.mu.Unlock()
		if cond(s.pm.Snapshot()) {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("the %s service waited in vain for %s: %w", s.name, what, context.Cause(ctx))
		}
	}
}

// state returns what a snapshot says of the node at an address.
func (s *service) state(snapshot *hasql.Snapshot, node int) hasql.NodeState {
	for n := range snapshot.Nodes() {
		if s.nodeAt[n.Name] == node {
			return n
		}
	}
	return hasql.NodeState{}
}

// trusted returns the node that the service takes for the master, nobody if there is none.
func (s *service) trusted() int {
	for n := range s.pm.Snapshot().Nodes() {
		if n.Role == hasql.RoleMaster && n.Status == hasql.StatusUp {
			return s.nodeAt[n.Name]
		}
	}
	return nobody
}

// describe says what the service knows of its nodes.
func (s *service) describe() (lines []string) {
	for n := range s.pm.Snapshot().Nodes() {
		lines = append(lines, fmt.Sprintf("%s: %s", s.game.nodes[s.nodeAt[n.Name]].Name(), n.String()))
	}
	return lines
}
