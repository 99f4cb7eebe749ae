package pgfake

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	user     = "app"
	database = "app"
	password = "secret"

	// DefaultSystemID is the system identifier that every node starts with.
	DefaultSystemID int64 = 7000000000000000001
	// DefaultServerVersion is what every node starts with.
	DefaultServerVersion = "17.5"
	// StartLSN is the WAL position of every node of a new cluster.
	StartLSN int64 = 1000
	// WriteSize is how far one write moves the LSN.
	WriteSize int64 = 100
)

// Cluster is a set of PostgreSQL nodes. Create it with New, inside the
// synctest bubble that uses it if there is one, and end it with Close. All
// methods of Cluster and Node are safe for concurrent use, also from handlers.
type Cluster struct {
	nodes []*Node
	// sessions ends when every goroutine of the cluster is gone.
	sessions sync.WaitGroup

	mu              sync.Mutex // guards everything below and the state of every node; taken before a link's
	closed          bool
	requirePassword bool
	synchronous     bool
	skewed          bool
	replayed        chan struct{} // closed when a replica replays more; nil while nobody waits
	exact           map[string]*route
	prefixes        map[string]*route
	lastPID         uint32
	lastPort        int
	lastRecord      uint64
	commits         map[string]int // of each token
}

// New makes a cluster of running nodes: the first is the master, the others are
// its streaming replicas, all on timeline 1. A name without a port gets 5432.
func New(names ...string) *Cluster {
	c := &Cluster{
		exact:    make(map[string]*route),
		prefixes: make(map[string]*route),
		lastPID:  1000,
		lastPort: 40000,
		commits:  make(map[string]int),
	}
	for i, name := range names {
		host, port, err := net.SplitHostPort(name)
		if err != nil {
			host, port = name, "5432"
		}
		c.nodes = append(c.nodes, newNode(c, host, port, i > 0))
	}
	return c
}

// Nodes returns every node, in the order given to New.
func (c *Cluster) Nodes() []*Node { return append([]*Node(nil), c.nodes...) }

// Node returns the node with that name ("pg1") or address ("pg1:5432"). It
// panics if there is none: a test misspelt it.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.name == name || n.addr == name {
			return n
		}
	}
	panic(fmt.Sprintf("pgfake: no node %q", name))
}

// Master returns the master with the highest timeline, up or not, or nil.
func (c *Cluster) Master() *Node {
	defer c.lock()()
	return c.masterLocked()
}

// DSN names every node, as postgres://app:secret@pg1:5432,pg2:5432/app?sslmode=disable.
func (c *Cluster) DSN() string {
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = n.addr
	}
	return dsn(strings.Join(addrs, ","))
}

func dsn(addrs string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, password, addrs, database)
}

// RequirePassword makes every node ask for the password of the DSN (cleartext)
// and refuse another with 28P01. Off at first: any login is trusted.
func (c *Cluster) RequirePassword(on bool) {
	defer c.lock()()
	c.requirePassword = on
}

// Synchronous is synchronous_standby_names = 'ANY 1 (*)': a commit is
// acknowledged once a replica has replayed it, and waits until then. A session
// that is ended while it waits acknowledges nothing, though the write is in the
// log of its node. Off at first.
func (c *Cluster) Synchronous(on bool) {
	defer c.lock()()
	c.synchronous = on
}

// Skew makes every new connection answer some nanoseconds later than those
// before it, so that hardly any two answers share an instant. In virtual time
// what happens at one instant happens in any order.
func (c *Cluster) Skew(on bool) {
	defer c.lock()()
	c.skewed = on
}

// Committed returns the record of a write, wherever it is.
func (c *Cluster) Committed(token string) (r Record, ok bool) {
	defer c.lock()()
	for _, n := range c.nodes {
		for _, r := range slices.Backward(n.wal) {
			if r.Token == token {
				return r, true
			}
		}
	}
	return Record{}, false
}

// Commits counts how often a write of token was committed, on whatever node, and
// whether or not that has forgotten it since.
func (c *Cluster) Commits(token string) int {
	defer c.lock()()
	return c.commits[token]
}

// Survived reports whether a write of token is in the log of the current
// master, the one with the highest timeline, running or not.
func (c *Cluster) Survived(token string) bool {
	defer c.lock()()
	m := c.masterLocked()
	if m == nil {
		return false
	}
	for _, r := range m.wal {
		if r.Token == token && token != "" {
			return true
		}
	}
	return false
}

// Close ends every connection, refuses further dials and returns when every
// goroutine of the cluster is gone. A running handler is waited for; its
// context is cancelled.
func (c *Cluster) Close() {
	unlock := c.lock()
	c.closed = true
	for _, n := range c.nodes {
		n.endSessionsLocked(nil)
		n.notifyLocked()
	}
	unlock()
	c.sessions.Wait()
}

// Lookup is a LookupFunc: it resolves the name of a node to itself.
func (c *Cluster) Lookup(ctx context.Context, host string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, IsTimeout: true, UnwrapErr: err}
	}
	for _, n := range c.nodes {
		if n.name == host {
			return []string{host}, nil
		}
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Dial is a DialFunc. It connects at once or after DialTime, hangs until ctx ends while the
// network of the node is cut, and fails with ECONNREFUSED when nothing listens
// at address. ctx does not bound the connection once it is made.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: network, Addr: addr(address), Err: err}
	}
	defer c.lock()()
	n := c.listenerLocked(address)
	if n == nil {
		return nil, fail(syscall.ECONNREFUSED)
	}
	n.dials++
	if n.up && n.dialTime > 0 && !c.passLocked(ctx, n.dialTime) {
		return nil, fail(ctx.Err())
	}
	for n.cut != 0 && !c.closed {
		if !n.waitLocked(ctx) {
			return nil, fail(ctx.Err())
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(err)
	}
	if !n.up || c.closed {
		return nil, fail(syscall.ECONNREFUSED)
	}
	return n.acceptLocked(), nil
}

// passLocked gives mu up for d; it reports false when ctx ended first.
func (c *Cluster) passLocked(ctx context.Context, d time.Duration) bool {
	c.mu.Unlock()
	defer c.mu.Lock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// listenerLocked returns the node with that host:port, or nil.
func (c *Cluster) listenerLocked(address string) *Node {
	for _, n := range c.nodes {
		if n.addr == address {
			return n
		}
	}
	return nil
}

// lock takes mu and brings every replica up to date with the present; the
// result releases it.
func (c *Cluster) lock() (unlock func()) {
	c.mu.Lock()
	c.replicateLocked(time.Now())
	return c.mu.Unlock
}
