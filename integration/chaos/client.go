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
	// opLimit is a client's patience. No failover takes so long, so no operation may ever need it.
	opLimit = time.Minute
	// overrun is how much longer an operation may take than its context allows, on a machine that is busy.
	overrun = 5 * time.Second
	// pause is how long a client rests between two operations, so that the machine has time for the failover.
	pause = 10 * time.Millisecond
)

// client does one operation after the other. Its dice choose which.
type client struct {
	*service
	writes bool
	number int
	dice   *rand.Rand
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
	do, role := c.read, hasql.RoleReplica
	if c.writes {
		do, role = c.write, hasql.RoleMaster
	}
	before := c.pm.Snapshot()
	node, err := do(ctx)
	name := ""
	if node != nobody {
		name = c.game.nodes[node].Name()
		if was := c.state(before, node); misled(was, c.state(c.pm.Snapshot(), node), role) {
			c.game.book.accuse("%s: was led to a node that was known as %s", c, was.String())
		}
	}
	c.game.book.finish(c, op{service: c.name, write: c.writes, end: time.Now(), err: err}, name)
	if noNode, ok := errors.AsType[*hasql.NoNodeError](err); ok {
		c.game.book.accuse("%s: no connection: %v", c, noNode)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		c.game.book.accuse("%s: %v were not enough on %q: %v", c, opLimit, name, err)
	}
	if deadline, _ := ctx.Deadline(); time.Since(deadline) > overrun {
		c.game.book.accuse("%s: came back %v after the end of its context", c, time.Since(deadline))
	}
}

// misled says whether an operation was led to a node that was not in this role, as its PoolManager knew: the snapshots from
// before and after it say so, and that nothing changed in between.
func misled(before, after hasql.NodeState, role hasql.Role) bool {
	return before.Role != role && after.Role == before.Role && after.Status == before.Status && after.Since.Equal(before.Since)
}

// acquire gets a connection, and tells where it leads.
func (c *client) acquire(ctx context.Context, route *hasql.Route) (conn *pgxpool.Conn, node int, err error) {
	conn, err = route.Acquire(ctx)
	if err != nil {
		return nil, nobody, err
	}
	config := conn.Conn().Config()
	return conn, c.nodeAt[net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))], nil
}

// read asks any replica for a register or, every other time, one that has the latest known version of it. It does so on a
// route, or over a connection of its own.
func (c *client) read(ctx context.Context) (node int, err error) {
	route, wanted := c.pm.Replica(), c.latest.Load()
	register := c.anyRegister()
	promised := wanted != nil && c.dice.IntN(2) == 0
	if promised {
		register = wanted.register
		route = c.pm.Replica(hasql.AtLeast(wanted.lsn))
	}
	seen, node, err := c.look(ctx, route, register)
	if err != nil {
		return node, err
	}
	reign := c.game.master.Load()
	missed := promised && seen.version < wanted.version && wanted.epoch == reign.epoch
	switch {
	case missed && slices.Contains(reign.doubtful, node):
		c.game.book.miss()
	case missed:
		c.game.book.accuse("%s: n%d has %v, though it is said to have the WAL up to %s, with %v", c, node+1, seen, wanted.lsn, wanted.change)
	}
	c.game.book.see(c, seen, promised)
	return node, nil
}

func (c *client) look(ctx context.Context, route *hasql.Route, register int) (seen change, node int, err error) {
	seen.register, node = register, nobody
	port := 0
	if c.dice.IntN(2) == 0 {
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

// nodeOn returns the node that listens on a port, nobody for none.
func (c *client) nodeOn(port int) int {
	for i, n := range c.game.nodes {
		if n.Port() == port {
			return i
		}
	}
	return nobody
}

func (c *client) checkPort(node, port int) {
	if want := c.game.nodes[node].Port(); port != want {
		c.game.book.accuse("%s: port %d answered for %d", c, port, want)
	}
}
