package hasql

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/random"
)

// NodeConfig is one node of the cluster.
type NodeConfig struct {
	// Name is the node's name in logs, errors and statistics. The default is host:port, with the hostaddr in brackets if
	// an earlier node has the same host:port.
	Name string

	// Zone is the node's availability zone, for [WithZone]. The default is no zone.
	Zone string

	// Tags hold further facts about the node. If noloadbalance is "true", the node takes no reads while it is a replica. The
	// default is none.
	Tags map[string]string

	// Pool configures the node's pool. It must have exactly one host, which [ParseConfig] ensures. Hooks and tracers that
	// are set here keep working. The node's monitor connects with Pool.ConnConfig after it has called Pool.BeforeConnect.
	Pool *pgxpool.Config

	addr netip.Addr // dialled instead of what the host's name means; zero if there is none
}

// label holds a node's name, zone and tags. They may change while the node stays.
type label struct {
	name, zone string
	tags       map[string]string
}

// address is an address. Two configurations with the same address are one node.
type address struct {
	host string
	port uint16
	addr netip.Addr
}

func newAddress(host string, port uint16, addr netip.Addr) address {
	host = strings.ToLower(host)
	if addr = addr.Unmap(); addr.IsValid() && addr.String() == host {
		addr = netip.Addr{} // it says nothing that the host does not
	}
	return address{host, port, addr}
}

func (c *NodeConfig) address() address {
	return newAddress(c.Pool.ConnConfig.Host, c.Pool.ConnConfig.Port, c.addr)
}

func (c *NodeConfig) label() label { return label{c.Name, c.Zone, c.Tags} }

// node is one server of the cluster. Its pointer is its identity: a host that leaves the cluster and comes back is
// another node.
type node struct {
	config  NodeConfig // as the user gave it
	address address    // its address
	pool    *nodepool.Pool
	load    *nodepool.Load
	checks  *checks
	lookout lookout
	stop    context.CancelFunc // ends its monitor

	acquires [targets]atomic.Int64 // connections lent, by the target of the acquire
	turn     atomic.Uint64         // the number of the node's last turn in RoundRobin
}

// lookout serves the acquires that wait for a connection of a node: it looks whether another node has one sooner.
type lookout struct {
	on           atomic.Bool     // whether the lookout runs, because an acquire waits
	servedBefore map[*node]int64 // served() of every node, at the time when this node last lent a connection
}

// newNode makes a node without a monitor.
func newNode(ctx context.Context, config NodeConfig) (*node, error) {
	n := &node{config: config, address: config.address(), checks: newChecks()}
	pool, err := nodepool.New(ctx, config.Name, config.Pool, n.checks)
	if err != nil {
		return nil, err
	}
	n.pool, n.load = pool, pool.Load
	return n, nil
}

// id names the node in what is known of commits. A list of nodes may give the node another name, but no other id.
func (n *node) id() string { return n.config.Name }

// frozen returns a node with a copy of the present load. The copy no longer changes.
func (n *node) frozen() *node { return &node{config: n.config, load: n.load.Frozen()} }

// slowStart is how long a node that has come back takes to reach its full share of reads.
const slowStart = 3 * time.Second

// newNodes makes nodes. If one cannot be made, newNodes makes none, and the error names that node.
func newNodes(ctx context.Context, configs []NodeConfig) (nodes []*node, err error) {
	for _, config := range configs {
		n, err := newNode(ctx, config)
		if err != nil {
			endNodes(nodes)
			return nil, fmt.Errorf("pool of %s: %w", config.Name, err)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// endNodes closes nodes that were never used.
func endNodes(nodes []*node) {
	for _, n := range nodes {
		n.pool.End()
		n.pool.Close()
	}
}

// served returns how many connections the node has lent so far.
func (n *node) served() (sum int64) {
	for t := range n.acquires {
		sum += n.acquires[t].Load()
	}
	return sum
}

// admittedBySlowStart decides at random whether a node that came back at since may take one more read. The probability grows
// with time. It is 0 while the pool is being filled.
func (n *node) admittedBySlowStart(since time.Time) bool {
	return !n.pool.Filling() && random.Fraction() < float64(time.Since(since))/float64(slowStart)
}
