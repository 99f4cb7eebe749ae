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
	maxConns    = writersEach + readersEach // enough for all clients on one node
)

// service is an application: a PoolManager and its clients, which do not know the nodes.
type service struct {
	setting
	nodeAt  map[string]int // by the address that it dials
	testbed *testbed
	pm      *hasql.PoolManager
	latest  atomic.Pointer[token]

	mu     sync.Mutex
	events []string // of hooks, in this round
}

// majority is the name of the service that requires a majority.
const majority = "majority"

// setting is what differs between services.
type setting struct {
	name    string
	options string // of its DSN
	proxied bool   // the service reaches the nodes through proxies
	simple  bool   // the service uses the simple protocol only
}

// settings of the services. A partition of the proxies separates two of them from nodes that the others reach.
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
	epoch int // of the term in which the token is valid
}

// open makes the PoolManager. The options of its setting win over the common ones.
func (s *service) open(ctx context.Context, dsn string) error {
	config, err := hasql.ParseConfig(fmt.Sprintf("%s&pool_max_conns=%d&application_name=%s%s", dsn, maxConns, application, s.options))
	if err != nil {
		return err
	}
	config.AcquireTimeout = opLimit
	config.DownTimeout = patience // on a busy machine a node that is slow must not count as down; a newer master ends statements that hang
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
}

// takeEvents returns the events since the last call.
func (s *service) takeEvents() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.events = nil }()
	return s.events
}

// await blocks until a snapshot satisfies cond.
func (s *service) await(ctx context.Context, what string, cond func(*hasql.Snapshot) bool) error {
	if err := s.pm.WaitFor(ctx, cond); err != nil {
		return fmt.Errorf("the %s service still waits for %s: %w: %w", s.name, what, context.Cause(ctx), err)
	}
	return nil
}

// state returns a node of a snapshot by its number.
func (s *service) state(snapshot *hasql.Snapshot, node int) hasql.NodeState {
	for n := range snapshot.Nodes() {
		if s.nodeAt[n.Name] == node {
			return n
		}
	}
	return hasql.NodeState{}
}

// trusted returns the node that the service takes for the master, nobody if it knows none.
func (s *service) trusted() int {
	for n := range s.pm.Snapshot().Nodes() {
		if n.Role == hasql.RoleMaster && n.Status == hasql.StatusUp {
			return s.nodeAt[n.Name]
		}
	}
	return nobody
}

// describe returns what the service knows about its nodes.
func (s *service) describe() (lines []string) {
	for n := range s.pm.Snapshot().Nodes() {
		lines = append(lines, fmt.Sprintf("%s: %s", s.testbed.nodes[s.nodeAt[n.Name]].Name(), n.String()))
	}
	return lines
}
