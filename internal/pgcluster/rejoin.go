package pgcluster

import (
	"context"
	"os"
	"strconv"
	"strings"
)

// Rejoin makes a node a streaming replica of master again. The node may be an ex-master that was killed or stopped, an ex-master
// that still runs on a timeline of its own, or a standby that is ahead of master. WAL that master does not have is lost. Rejoin
// stops the node if it runs, and kills it if it is frozen. Then it rewinds the data directory with pg_rewind; if that fails, it
// makes a new one as [Node.Rebuild] does. It returns once the node streams, see [Node.WaitStreaming].
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

// Rebuild makes a node a streaming replica of master from a base backup. It stops the node if it runs, kills it if it is frozen,
// and removes its data directory. It returns once the node streams, see [Node.WaitStreaming].
func (n *Node) Rebuild(ctx context.Context, master *Node) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if err := n.halt(ctx); err != nil {
		return err
	}
	return n.rebuildLocked(ctx, master)
}

func (n *Node) rebuildLocked(ctx context.Context, master *Node) error {
	n.removeSharedMemory() // only the data directory has its id
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

// halt ends the server if it runs.
func (n *Node) halt(ctx context.Context) error {
	if !n.Running() || n.frozen.Load() {
		return n.Kill() // a thawed ex-master would accept writes for a moment
	}
	return n.Stop(ctx, StopFast)
}

// rewind removes from the node's data directory what master does not have. The node must not run.
func (n *Node) rewind(ctx context.Context, master *Node) error {
	if err := n.settle(ctx); err != nil {
		return err
	}
	// Before PostgreSQL 16, pg_rewind finds out about a promotion only from the checkpoint after it, which may be long in coming.
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

// settle makes sure that the data directory was shut down cleanly, as pg_rewind requires. pg_rewind can recover a crashed master
// itself. But before PostgreSQL 14 it does so without the node's own configuration, and then finds wal_log_hints off. A standby
// can be recovered only by starting it as a standby.
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
	}) // it ends at the end of its input
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
