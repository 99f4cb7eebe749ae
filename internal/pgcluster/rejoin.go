package pgcluster

import (
	"context"
	"os"
	"strconv"
	"strings"
)

// Rejoin brings a node back as a streaming replica of master, whatever has become of it: an ex-master that was killed
// or stopped or still runs on a timeline of its own, or a standby that is ahead of master. What it has and master has
// not is lost. If it runs it is stopped, or killed if it is frozen. Its data directory is then rewound with pg_rewind
// or, where that fails, made anew by [Node.Rebuild]. Rejoin returns once it streams, see [Node.WaitStreaming].
func (n *Node) Rejoin(ctx context.Context, master *Node) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if err := n.halt(ctx); err != nil {
		return err
	}
	err := n.rewind(ctx, master)
	if err == nil {
		err = n.startReplica(ctx, master)
	}
	if err == nil {
		n.cluster.opts.logf("%s: rejoined %s by pg_rewind", n.name, master.name)
		return n.WaitStreaming(ctx, master)
	}
	if ctx.Err() != nil {
		return err
	}
	n.cluster.opts.logf("%s: a base backup is needed: %v", n.name, err)
	return n.rebuildLocked(ctx, master)
}

// Rebuild makes a node a streaming replica of master from a base backup of it. If it runs it is stopped, or killed if
// it is frozen; its data directory is thrown away. Rebuild returns once it streams, see [Node.WaitStreaming].
func (n *Node) Rebuild(ctx context.Context, master *Node) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if err := n.halt(ctx); err != nil {
		return err
	}
	return n.rebuildLocked(ctx, master)
}

func (n *Node) rebuildLocked(ctx context.Context, master *Node) error {
	n.removeSharedMemory() // the data directory is all that knows of it
	if err := os.RemoveAll(n.dataDir()); err != nil {
		return n.errorf("rebuild: %w", err)
	}
	_, err := n.run(ctx, command{
		dir:  n.dir,
		name: "pg_basebackup",
		args: []string{
			"-D", n.dataDir(), "-h", master.host.IP, "-p", strconv.Itoa(master.Port()), "-U", superuser, "-w",
			"--checkpoint=fast", "--wal-method=stream", "--no-sync",
		},
		password: n.cluster.opts.Password,
	})
	if err != nil {
		return n.errorf("rebuild: %w", err)
	}
	if err := n.startReplica(ctx, master); err != nil {
		return err
	}
	n.cluster.opts.logf("%s: rejoined %s by base backup", n.name, master.name)
	return n.WaitStreaming(ctx, master)
}

// halt makes sure that no server runs.
func (n *Node) halt(ctx context.Context) error {
	if !n.Running() || n.frozen.Load() {
		return n.Kill() // thawing an ex-master would let it take writes for a moment
	}
	return n.Stop(ctx, StopFast)
}

// rewind takes back what the node's data directory has beyond master's. The node does not run.
func (n *Node) rewind(ctx context.Context, master *Node) error {
	if err := n.settle(ctx); err != nil {
		return err
	}
	// Before PostgreSQL 16 pg_rewind learns of a promotion from the checkpoint after it, which may take its time.
	if err := master.checkpoint(ctx); err != nil {
		return err
	}
	_, err := n.run(ctx, command{
		dir:      n.dir,
		name:     "pg_rewind",
		args:     []string{"-D", n.dataDir(), "--source-server=" + n.conninfo(master, ""), "--no-sync"},
		password: n.cluster.opts.Password,
	})
	if err != nil {
		return n.errorf("%w", err)
	}
	return nil
}

// settle gives a data directory whose server did not end in order the clean shutdown that pg_rewind asks for. pg_rewind
// can do that itself for a crashed master, but before PostgreSQL 14 not with the node's own configuration, and then
// finds that wal_log_hints has been off. For a standby nobody but a standby can do it.
func (n *Node) settle(ctx context.Context) error {
	pg := n.cluster.pg
	out, err := pg.run(ctx, command{dir: n.dir, name: "pg_controldata", args: []string{"-D", n.dataDir()}})
	if err != nil {
		return n.errorf("%w", err)
	}
	if strings.Contains(out, "shut down") { // "shut down", "shut down in recovery"
		return nil
	}
	if n.standby() {
		if err := n.configure(func(s *settings) { s.primary = "" }); err != nil {
			return err
		}
		if err := n.startLocked(ctx); err != nil {
			return err
		}
		return n.Stop(ctx, StopFast)
	}
	_, err = pg.run(ctx, command{
		dir:  n.dir,
		name: "postgres",
		args: []string{"--single", "-F", "-D", n.dataDir(), "-c", "config_file=" + n.confFile(), "template1"},
	}) // at the end of its input it ends
	if err != nil {
		return n.errorf("recover: %w", err)
	}
	return nil
}

func (n *Node) checkpoint(ctx context.Context) error {
	conn, err := n.Conn(ctx)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	if _, err := conn.Exec(ctx, "checkpoint"); err != nil {
		return n.serverError("checkpoint", err)
	}
	return nil
}

func (n *Node) startReplica(ctx context.Context, master *Node) error {
	if err := n.becomeReplica(master); err != nil {
		return err
	}
	return n.startLocked(ctx)
}
