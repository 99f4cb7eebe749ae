package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql"
)

const (
	// opLimit is the time limit of one operation. No failover takes so long, so an operation that reaches the limit is a violation.
	opLimit = time.Minute
	// overrun is how long an operation may go on after the end of its context. A busy machine delays operations.
	overrun = 5 * time.Second
	// pause is the time between two operations of a client, so that the machine has time for the failover.
	pause = 10 * time.Millisecond
)

// client does one operation after the other. Its random numbers choose them.
type client struct {
	*service
	writes bool
	number int
	rng    *rand.Rand
}

func (c *client) String() string {
	what := "reader"
	if c.writes {
		what = "writer"
	}
	return fmt.Sprintf("%s %s %d", c.name, what, c.number+1)
}

// work runs operations until ctx ends. It finishes the operation that runs then.
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
	do, role := c.read, hasql.RoleReplica
	if c.writes {
		do, role = c.write, hasql.RoleMaster
	}
	before := c.pm.Snapshot()
	node, err := do(ctx)
	name := ""
	if node != nobody {
		name = c.testbed.nodes[node].Name()
		if was := c.state(before, node); misled(was, c.state(c.pm.Snapshot(), node), role) {
			c.testbed.recorder.addViolation("%s: was routed to a node that was known as %s", c, was.String())
		}
	}
	c.testbed.recorder.addOperation(c, op{service: c.name, write: c.writes, end: time.Now(), err: err}, name)
	if noNode, ok := errors.AsType[*hasql.NoNodeError](err); ok {
		c.testbed.recorder.addViolation("%s: no connection: %v", c, noNode)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		c.testbed.recorder.addViolation("%s: an operation on %[3]q did not end within %[2]v: %[4]v", c, opLimit, name, err)
	}
	if deadline, _ := ctx.Deadline(); time.Since(deadline) > overrun {
		c.testbed.recorder.addViolation("%s: returned %v after the end of its context", c, time.Since(deadline))
	}
}

// misled reports whether an operation was routed to a node that its PoolManager knew not to have this role. The snapshots
// from before and after the operation show that, if they also show that nothing changed in between.
func misled(before, after hasql.NodeState, role hasql.Role) bool {
	return before.Role != role && after.Role == before.Role && after.Status == before.Status && after.Since.Equal(before.Since)
}

// acquire acquires a connection, and returns its node.
func (c *client) acquire(ctx context.Context, route *hasql.Route) (conn *pgxpool.Conn, node int, err error) {
	conn, err = route.Acquire(ctx)
	if err != nil {
		return nil, nobody, err
	}
	config := conn.Conn().Config()
	return conn, c.nodeAt[net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))], nil
}

// read reads a register from any replica or, every other time, from one that has the latest known version of it. It uses a
// route, or a connection that it acquires.
func (c *client) read(ctx context.Context) (node int, err error) {
	route, wanted := c.pm.Replica(), c.latest.Load()
	register := c.anyRegister()
	promised := wanted != nil && c.rng.IntN(2) == 0
	if promised {
		register = wanted.register
		route = c.pm.Replica(hasql.AtLeast(wanted.lsn))
	}
	seen, node, err := c.look(ctx, route, register)
	if err != nil {
		return node, err
	}
	term := c.testbed.term.Load()
	missed := promised && seen.version < wanted.version && wanted.epoch == term.epoch
	switch {
	case missed && slices.Contains(term.doubtful, node):
		c.testbed.recorder.addMissedRead()
	case missed:
		c.testbed.recorder.addViolation("%s: n%d has %v, though AtLeast(%s) promised %v", c, node+1, seen, wanted.lsn, wanted.change)
	}
	c.testbed.recorder.addRead(c, seen, promised)
	return node, nil
}

func (c *client) look(ctx context.Context, route *hasql.Route, register int) (seen change, node int, err error) {
	seen.register, node = register, nobody
	port := 0
	if c.rng.IntN(2) == 0 {
		err = route.QueryRow(ctx, lookSQL, register).Scan(&seen.version, &seen.mark, &port)
		return seen, c.nodeOn(port), err
	}
	conn, node, err := c.acquire(ctx, route)
	if err != nil {
		return seen, node, err
	}
	defer conn.Release()
	err = conn.QueryRow(ctx, lookSQL, register).Scan(&seen.version, &seen.mark, &port)
	if err == nil {
		c.checkPort(node, port)
	}
	return seen, node, err
}

// nodeOn returns the node that listens on a port, nobody if no node does.
func (c *client) nodeOn(port int) int {
	for i, n := range c.testbed.nodes {
		if n.Port() == port {
			return i
		}
	}
	return nobody
}

func (c *client) checkPort(node, port int) {
	if want := c.testbed.nodes[node].Port(); port != want {
		c.testbed.recorder.addViolation("%s: the server on port %d answered, not the one on port %d", c, port, want)
	}
}
