package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Cluster is one master and its replicas at the start; faults and promotions may change that. Its methods may be called from
// several goroutines.
type Cluster struct {
	opts  Options
	pg    *install
	dir   string
	nodes []*Node
	watch *watchdog

	closing  sync.Once
	closeErr error
}

// startAttempts is how many times Start tries, with other ports, if another program listens on one of its ports.
const startAttempts = 3

// Start makes a cluster and blocks until the master accepts connections and every replica streams from it. That takes about
// half a second, and one initdb more the first time on a machine. Start fails if ctx ends before; afterwards ctx has no
// influence. [Cluster.Close] ends the cluster. After an error there is nothing to close.
//
// Without PostgreSQL on this machine the error matches [ErrNoPostgres].
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	return start(ctx, opts, reservePort)
}

func start(ctx context.Context, opts Options, reserve func() (*port, error)) (*Cluster, error) {
	began := time.Now()
	if err := errors.Join(opts.check(), supported()); err != nil {
		return nil, err
	}
	pg, err := newInstall(ctx, opts.BinDir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, pg: pg}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for attempt := 1; ; attempt++ {
		err = c.launch(ctx, reserve)
		if err == nil {
			opts.logf("PostgreSQL %s, %d node(s) in %s after %v", pg.version, len(c.nodes), c.dir, time.Since(began).Round(time.Millisecond))
			return c, nil
		}
		again := errors.Is(err, errPortTaken) || errors.Is(err, errBrokenBase)
		if !again || attempt == startAttempts || ctx.Err() != nil {
			return nil, errors.Join(err, c.Close())
		}
		opts.logf("starting over: %v", err)
		if err := c.discardNodes(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
}

// prepare makes the cluster's folder and starts its watchdog.
func (c *Cluster) prepare() (err error) {
	if c.dir, err = makeDir(c.pg.account); err != nil {
		return err
	}
	c.pg.account.home = c.dir
	c.watch, err = startWatchdog(c.dir, c.pg.binDir, c.pg.account)
	return err
}

// makeDir makes a temporary folder that belongs to a.
func makeDir(a account) (string, error) {
	temp, err := tempDir()
	if err != nil {
		return "", fmt.Errorf("pgcluster: %w", err)
	}
	dir, err := os.MkdirTemp(temp, "hasql-pgcluster-run-")
	if err != nil {
		return "", fmt.Errorf("pgcluster: %w", err)
	}
	if err := a.own(dir); err != nil {
		return "", errors.Join(fmt.Errorf("pgcluster: %w", err), os.Remove(dir))
	}
	return dir, nil
}

// launch makes the nodes, starts all of them at once, and waits until the replicas stream.
func (c *Cluster) launch(ctx context.Context, reserve func() (*port, error)) error {
	for i := range c.opts.Replicas + 1 {
		p, err := reserve()
		if err != nil {
			return err
		}
		host := localhost
		if c.opts.Hosts != nil {
			host = c.opts.Hosts[i]
		}
		c.nodes = append(c.nodes, newNode(c, fmt.Sprintf("n%d", i+1), host, p))
	}
	seed, err := c.seed(ctx)
	if err != nil {
		return err
	}
	master := c.nodes[0]
	err = each(c.nodes, func(n *Node) error {
		if err := n.create(seed); err != nil {
			return err
		}
		if n != master {
			if err := n.becomeReplica(master); err != nil {
				return err
			}
		}
		return n.Start(ctx)
	})
	if err != nil {
		return err
	}
	return each(c.nodes[1:], func(n *Node) error { return n.WaitStreaming(ctx, master) })
}

// seed returns the base that the nodes' data directories are copied from. With a password it is a copy of the cached base in
// which the password is set. initdb does not set the password, so that no password gets into the cache.
func (c *Cluster) seed(ctx context.Context) (base, error) {
	kept, err := c.pg.prepareBase(ctx, c.dir, c.opts.logf)
	if err != nil || c.opts.Password == "" {
		return kept, err
	}
	seed := base{filepath.Join(c.dir, "seed")}
	if err := mkdirFor(c.pg.account, seed.dir); err != nil {
		return base{}, fmt.Errorf("pgcluster: %w", err)
	}
	if err := kept.copyData(seed.data(), c.pg.account); err != nil {
		return base{}, err
	}
	out, err := c.pg.run(ctx, command{
		dir:  seed.dir,
		name: "postgres",
		args: []string{"--single", "-F", "-D", seed.data(), "-c", "password_encryption=scram-sha-256", "postgres"},
		// One line is one command there.
		stdin: "ALTER ROLE " + superuser + " PASSWORD '" + strings.ReplaceAll(c.opts.Password, "'", "''") + "'\n",
	})
	if err == nil && strings.Contains(out, "ERROR:") {
		err = errors.New("single-user PostgreSQL refused to set the password")
	}
	if err != nil {
		return base{}, fmt.Errorf("pgcluster: %w", err)
	}
	return seed, seed.seal(c.pg.account)
}

// discardNodes ends the nodes and removes their folders. The rest of the cluster stays.
func (c *Cluster) discardNodes() error {
	err := each(c.nodes, func(n *Node) error { return errors.Join(n.end(), os.RemoveAll(n.dir)) })
	for _, n := range c.nodes {
		n.port.release()
	}
	c.nodes = nil
	return errors.Join(err, os.RemoveAll(filepath.Join(c.dir, "seed")))
}

// Close ends every process of the cluster, even frozen ones and those with clients, and removes its folder. It blocks until
// that is done, usually for some 20 ms. Only the first call does anything; every call returns its error.
func (c *Cluster) Close() error {
	c.closing.Do(func() {
		err := c.discardNodes()
		if c.dir != "" {
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
		if c.watch != nil {
			err = errors.Join(err, c.watch.stop())
		}
		if err != nil {
			c.closeErr = fmt.Errorf("pgcluster: close: %w", err)
		}
	})
	return c.closeErr
}

// Nodes returns the nodes in the order of their creation: the first master, then the replicas. The slice is the
// caller's.
func (c *Cluster) Nodes() []*Node { return slices.Clone(c.nodes) }

// Dir returns the cluster's folder, which [Cluster.Close] removes. See the package's documentation for its content.
func (c *Cluster) Dir() string { return c.dir }

// Version returns PostgreSQL's version as its programs print it, such as 15.18.
func (c *Cluster) Version() string { return c.pg.version }

// DSN returns the URL of the whole cluster: every node's address in the order of [Cluster.Nodes], database
// postgres, no target_session_attrs.
func (c *Cluster) DSN() string {
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = n.Addr()
	}
	return c.dsn(strings.Join(addrs, ","))
}

func (c *Cluster) dsn(hosts string) string {
	who := url.User(superuser)
	if c.opts.Password != "" {
		who = url.UserPassword(superuser, c.opts.Password)
	}
	return "postgres://" + who.String() + "@" + hosts + "/postgres?sslmode=disable"
}

// SetSynchronous makes a commit on primary wait until n standbys have flushed it. With n = 0 commits do not wait. It sets
// synchronous_standby_names = 'ANY n (n1, n2, …)'; with * instead of names, the base backup of [Node.Rebuild] would count as a
// standby. Every node gets the setting, so that it also applies after a promotion. SetSynchronous returns once it applies on
// primary: the next commit waits. It does not check that there are n standbys; without them commits hang.
func (c *Cluster) SetSynchronous(ctx context.Context, primary *Node, n int) error {
	names := ""
	if n > 0 {
		all := make([]string, len(c.nodes))
		for i, node := range c.nodes {
			all[i] = node.name
		}
		names = fmt.Sprintf("ANY %d (%s)", n, strings.Join(all, ", "))
	}
	err := each(c.nodes, func(node *Node) error {
		node.changing.Lock() // a server that is about to start would die of the reload signal
		defer node.changing.Unlock()
		return node.configure(func(s *settings) { s.synchronous = names })
	})
	if err != nil {
		return err
	}
	return primary.waitSynchronous(ctx, names)
}

// each calls f for all nodes at once and joins the errors.
func each(nodes []*Node, f func(*Node) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
