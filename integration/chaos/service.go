package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql"
)

const (
	writersEach = 4
	readersEach = 4
	maxConns    = writersEach + readersEach // so many connections to one node are never short

	// opLimit is a client's patience. No failover takes so long, so no operation may ever need it.
	opLimit = 30 * time.Second
	// overrun is how much longer an operation may take than its context allows, on a machine that is busy.
	overrun = 5 * time.Second
	// pause is how long a client rests between two operations, so that the machine has time for the failover.
	pause = 5 * time.Millisecond
)

const (
	schema    = `create table ledger (id bigint primary key)`
	insertSQL = `insert into ledger values ($1) returning inet_server_port()`
	walSQL    = `select pg_current_wal_flush_lsn()::text`
	selectSQL = `select inet_server_port(), exists(select from ledger where id = $1)`
)

// service is an application: a PoolManager with clients that know nothing of nodes.
type service struct {
	name     string
	dsn      string
	maxConns int
	nodeAt   map[string]int // by the address that it dials
	game     *game
	pm       *hasql.PoolManager
	latest   atomic.Pointer[token]

	mu     sync.Mutex
	events []string      // of hooks, in this round
	news   chan struct{} // closed and replaced by each event
}

// token is what a reader needs to see a write.
type token struct {
	id  int64
	lsn hasql.LSN
}

func (s *service) open(ctx context.Context) error {
	config, err := hasql.ParseConfig(fmt.Sprintf("%s&pool_max_conns=%d&application_name=%s", s.dsn, s.maxConns, application))
	if err != nil {
		return err
	}
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

// history returns the events since the last call.
func (s *service) history() []string {
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

// client does one operation after the other.
type client struct {
	*service
	writes bool
	number int
}

func (c *client) String() string {
	what := "reader"
	if c.writes {
		what = "writer"
	}
	return fmt.Sprintf("%s %s %d", c.name, what, c.number+1)
}

// work goes on until ctx ends, and finishes the operation that it is at.
func (c *client) work(ctx context.Context) {
	rest := time.NewTicker(pause)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		c.once()
	}
}

func (c *client) once() {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	do := c.read
	if c.writes {
		do = c.write
	}
	id, node, err := do(ctx)
	c.game.book.finish(c, op{service: c.name, write: c.writes, end: time.Now(), err: err}, id, node)
	if errors.Is(err, context.DeadlineExceeded) {
		c.game.book.accuse("%s: %v were not enough on %q: %v", c, opLimit, node, err)
	}
	if deadline, _ := ctx.Deadline(); time.Since(deadline) > overrun {
		c.game.book.accuse("%s: came back %v after the end of its context", c, time.Since(deadline))
	}
}

// acquire gets a connection and checks that it leads where it should.
func (c *client) acquire(ctx context.Context, route *hasql.Route, role hasql.Role) (conn *pgxpool.Conn, node int, err error) {
	before := c.pm.Snapshot()
	conn, err = route.Acquire(ctx)
	if err != nil {
		return nil, 0, err
	}
	after := c.pm.Snapshot()
	config := conn.Conn().Config()
	node = c.nodeAt[net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))]
	if was := c.state(before, node); misled(was, c.state(after, node), role) {
		c.game.book.accuse("%s: was led to a node that was known as %s", c, was.String())
	}
	return conn, node, nil
}

func (c *client) write(ctx context.Context) (id int64, name string, err error) {
	master := c.game.master.Load()
	conn, node, err := c.acquire(ctx, c.pm.Master(), hasql.RoleMaster)
	if err != nil {
		return 0, "", err
	}
	defer conn.Release()
	name = c.game.nodes[node].Name()
	id = c.game.lastID.Add(1)
	port, err := c.insert(ctx, conn, id)
	if err != nil {
		return id, name, err
	}
	if master == c.game.master.Load() && node != master.node {
		c.game.book.accuse("%s: %s acknowledged a write that began when %s was the master already", c, name, c.game.nodes[master.node].Name())
	}
	c.checkPort(node, port)
	c.note(ctx, conn, id)
	return id, name, nil
}

// insert writes by a statement alone or, every other writer, by one in a transaction.
func (c *client) insert(ctx context.Context, conn *pgxpool.Conn, id int64) (port int, err error) {
	if c.number%2 == 0 {
		err = conn.QueryRow(ctx, insertSQL, id).Scan(&port)
		return port, err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return tx.QueryRow(ctx, insertSQL, id).Scan(&port) })
	return port, err
}

// note remembers where the WAL ends after a write. If that fails, the write is none the less acknowledged.
func (c *client) note(ctx context.Context, conn *pgxpool.Conn, id int64) {
	var text string
	if conn.QueryRow(ctx, walSQL).Scan(&text) != nil {
		return
	}
	if lsn, err := hasql.ParseLSN(text); err == nil {
		c.latest.Store(&token{id, lsn})
	}
}

// read asks any replica, or every other reader one that has the latest write of the service.
func (c *client) read(ctx context.Context) (id int64, name string, err error) {
	route, wanted := c.pm.Replica(), c.latest.Load()
	promised := c.number%2 == 0 && wanted != nil
	if promised {
		id = wanted.id
		route = c.pm.Replica(hasql.AtLeast(wanted.lsn))
	}
	conn, node, err := c.acquire(ctx, route, hasql.RoleReplica)
	if err != nil {
		return 0, "", err
	}
	defer conn.Release()
	name = c.game.nodes[node].Name()
	port, seen := 0, false
	if err := conn.QueryRow(ctx, selectSQL, id).Scan(&port, &seen); err != nil {
		return 0, name, err
	}
	if promised && !seen {
		c.game.book.accuse("%s: %s does not have write %d though it is said to have the WAL up to %s", c, name, wanted.id, wanted.lsn)
	}
	c.checkPort(node, port)
	return 0, name, nil
}

func (c *client) checkPort(node, port int) {
	if want := c.game.nodes[node].Port(); port != want {
		c.game.book.accuse("%s: port %d answered for %d", c, port, want)
	}
}

// describe says what the service knows of its nodes.
func (s *service) describe() (lines []string) {
	for n := range s.pm.Snapshot().Nodes() {
		lines = append(lines, fmt.Sprintf("%s: %s", s.game.nodes[s.nodeAt[n.Name]].Name(), n.String()))
	}
	return lines
}
