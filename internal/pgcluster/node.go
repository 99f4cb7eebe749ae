package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Node is one PostgreSQL server: a data directory and an address, whether a server runs there or not. Its methods may be called
// from several goroutines. Methods that start the server or change its configuration wait for each other. Methods that cause a
// fault do not wait.
type Node struct {
	cluster *Cluster
	name    string
	dir     string // data/, postgresql.conf, pg_hba.conf, log
	host    Host
	port    *port

	server atomic.Pointer[postmaster] // nil before the first start
	frozen atomic.Bool

	changing sync.Mutex // held while the server is started or its data directory is replaced

	mu       sync.Mutex
	settings settings
}

func newNode(c *Cluster, name string, host Host, p *port) *Node {
	dir := filepath.Join(c.dir, name)
	return &Node{
		cluster: c, name: name, dir: dir, host: host, port: p,
		settings: settings{ip: host.IP, port: p.number, name: name, hbaFile: filepath.Join(dir, "pg_hba.conf")},
	}
}

// Name returns n1, n2, …; it is the node's application_name when it streams from another.
func (n *Node) Name() string { return n.name }

// Addr returns address:port, the address being 127.0.0.1 unless [Options].Hosts says otherwise. It stays the same for the
// cluster's life; nobody else gets the port.
func (n *Node) Addr() string { return net.JoinHostPort(n.host.IP, strconv.Itoa(n.port.number)) }

// Port returns the port in [Node.Addr].
func (n *Node) Port() int { return n.port.number }

// DSN returns the URL of this node alone, like [Cluster.DSN].
func (n *Node) DSN() string { return n.cluster.dsn(n.Addr()) }

// Running reports whether the node's postmaster is alive, frozen or not. It does not block.
func (n *Node) Running() bool {
	p := n.server.Load()
	return p != nil && p.running()
}

// pid returns the process id of the live postmaster, else 0.
func (n *Node) pid() int {
	if p := n.server.Load(); p != nil && p.running() {
		return p.cmd.Process.Pid
	}
	return 0
}

// Conn opens a connection to this node only, as superuser, from the node's own host. The caller closes it. ctx limits the
// attempt; nothing else ends an attempt to connect to a frozen node. PG… variables of the environment have no influence.
func (n *Node) Conn(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(n.DSN())
	if err != nil {
		return nil, n.errorf("parse its DSN: %w", err)
	}
	config.Fallbacks = nil
	config.ValidateConnect = nil
	config.ConnectTimeout = 0
	config.RuntimeParams = map[string]string{"application_name": "pgcluster"}
	config.DialFunc = n.dial
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, n.errorf("connect: %w", err)
	}
	return conn, nil
}

// dial connects from the node's own host.
func (n *Node) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	n.host.Do(func() {
		var dialer net.Dialer
		conn, err = dialer.DialContext(ctx, network, addr)
	})
	return conn, err
}

// run runs one of PostgreSQL's programs on the node's host.
func (n *Node) run(ctx context.Context, c command) (out string, err error) {
	n.host.Do(func() { out, err = n.cluster.pg.run(ctx, c) })
	return out, err
}

// create makes the node's folder with a copy of seed.
func (n *Node) create(seed base) error {
	a := n.cluster.pg.account
	if err := mkdirFor(a, n.dir); err != nil {
		return n.errorf("%w", err)
	}
	if err := seed.copyData(n.dataDir(), a); err != nil {
		return n.errorf("%w", err)
	}
	method := "trust"
	if n.cluster.opts.Password != "" {
		method = "scram-sha-256"
	}
	if err := writeFor(a, n.settings.hbaFile, hba(n.cluster.opts.HBA, method)); err != nil {
		return n.errorf("%w", err)
	}
	if prepare := n.cluster.opts.Prepare; prepare != nil {
		if err := prepare(n); err != nil {
			return n.errorf("%w", err)
		}
	}
	return n.configure(func(*settings) {})
}

// WriteFile replaces, in one step, a file next to the node's data directory. The server's settings refer to it as ../name. Only
// the server may read it. It lasts as long as the cluster, even if the data directory is replaced.
func (n *Node) WriteFile(name, content string) error {
	if err := writeFor(n.cluster.pg.account, filepath.Join(n.dir, name), content); err != nil {
		return n.errorf("%w", err)
	}
	return nil
}

func (n *Node) dataDir() string     { return filepath.Join(n.dir, "data") }
func (n *Node) confFile() string    { return filepath.Join(n.dir, "postgresql.conf") }
func (n *Node) logFile() string     { return filepath.Join(n.dir, "log") }
func (n *Node) standbyFile() string { return filepath.Join(n.dataDir(), "standby.signal") }

// standby reports whether the node is a standby or would start as one. PostgreSQL removes the file on promotion.
func (n *Node) standby() bool {
	_, err := os.Stat(n.standbyFile())
	return err == nil
}

// configure changes the node's settings and writes its postgresql.conf. A running server gets a reload signal and applies the
// new settings a moment later.
func (n *Node) configure(change func(*settings)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.settings)
	conf := n.settings.render(n.cluster.opts.Parameters)
	if err := writeFor(n.cluster.pg.account, n.confFile(), conf); err != nil {
		return n.errorf("%w", err)
	}
	if p := n.server.Load(); p != nil {
		return p.signal(sigReload)
	}
	return nil
}

// Start starts a node that is not running, and returns once it accepts connections. First it waits for processes that an
// earlier run left behind; see [Node.KillPostmaster]. If Start fails or ctx ends, the node is not running.
func (n *Node) Start(ctx context.Context) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	return n.startLocked(ctx)
}

func (n *Node) startLocked(ctx context.Context) error {
	if n.Running() {
		return n.errorf("start: it is running")
	}
	began := time.Now()
	if err := n.waitGone(ctx); err != nil {
		return err
	}
	p, err := n.launch()
	if err != nil {
		return n.errorf("start: %w", err)
	}
	n.frozen.Store(false)
	n.server.Store(p)
	if err := poll(ctx, func() (bool, error) { return n.ready(p) }); err != nil {
		err = n.serverError("start", err)
		return errors.Join(err, n.Kill())
	}
	n.cluster.opts.logf("%s: accepts connections on %s after %v", n.name, n.Addr(), time.Since(began).Round(time.Millisecond))
	return nil
}

// errPortTaken says that another program listens on the node's port.
var errPortTaken = errors.New("its port is taken")

// ready reports whether the server accepts connections. The server writes that into its lock file: line 1 is the postmaster's
// process id, line 8 its state. pg_ctl reads the same lines.
func (n *Node) ready(p *postmaster) (bool, error) {
	if !p.running() {
		if strings.Contains(n.log(p.logFrom), "could not bind") {
			return false, fmt.Errorf("%w: %s", errPortTaken, n.Addr())
		}
		return false, fmt.Errorf("the server ended: %v", p.cmd.ProcessState)
	}
	lines := n.lockFile()
	return len(lines) >= 8 && lines[0] == strconv.Itoa(p.cmd.Process.Pid) && strings.TrimSpace(lines[7]) == "ready", nil
}

// lockFile returns the lines of postmaster.pid. There are none if no server runs and no killed server left the file.
func (n *Node) lockFile() []string {
	content, err := os.ReadFile(filepath.Join(n.dataDir(), "postmaster.pid"))
	if err != nil {
		return nil
	}
	return strings.Split(string(content), "\n")
}

// waitGone waits until no process of the node is left.
func (n *Node) waitGone(ctx context.Context) error {
	left := 0
	err := poll(ctx, func() (bool, error) {
		processes, err := n.processes()
		left = len(processes)
		return left == 0, err
	})
	if err != nil {
		return n.errorf("%d process(es) left: %w", left, err)
	}
	return nil
}

// errorf makes an error that names the node.
func (n *Node) errorf(format string, args ...any) error {
	return fmt.Errorf("pgcluster: "+n.name+": "+format, args...)
}

// serverError makes an error that names the node and quotes the end of its log.
func (n *Node) serverError(doing string, err error) error {
	tail := lastLines(n.log(0))
	if tail == "" {
		tail = "(empty)"
	}
	return n.errorf("%s: %w; its log ends:\n%s", doing, err, tail)
}

// log returns the server's log from an offset on.
func (n *Node) log(from int64) string {
	content, err := os.ReadFile(n.logFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return string(content[min(from, int64(len(content))):])
}
