package pgcluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// conninfo returns the connection string with which the node's programs connect to another node. password is "" if it comes
// from the environment.
func (n *Node) conninfo(to *Node, password string) string {
	info := fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable application_name=%s",
		to.host.IP, to.Port(), superuser, n.name)
	if password != "" {
		info += " password='" + conninfoEscaper.Replace(password) + "'"
	}
	return info
}

var conninfoEscaper = strings.NewReplacer(`'`, `\'`, `\`, `\\`)

// becomeReplica makes a node, which does not run or is a standby, a standby of master.
func (n *Node) becomeReplica(master *Node) error {
	if err := writeFor(n.cluster.pg.account, n.standbyFile(), ""); err != nil {
		return n.errorf("%w", err)
	}
	return n.configure(func(s *settings) {
		s.primary = n.conninfo(master, n.cluster.opts.Password)
	})
}

// Follow makes a standby, running or not, stream from master. It does not wait for that: see [Node.WaitStreaming]. It fails on a
// node that is no standby, and on a frozen one. A standby that has replayed more than master had at its promotion never
// streams; [Node.Rejoin] repairs it.
func (n *Node) Follow(ctx context.Context, master *Node) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	switch {
	case ctx.Err() != nil:
		return n.errorf("follow %s: %w", master.name, context.Cause(ctx))
	case !n.standby():
		return n.errorf("follow %s: it is no standby", master.name)
	case n.frozen.Load():
		return n.errorf("follow %s: it is frozen", master.name)
	}
	return n.becomeReplica(master)
}

// Detach makes a running standby stop receiving WAL. It returns once that is so, with the amount of WAL that the standby has: a
// byte position, comparable among the standbys of one master. A failover manager detaches the standbys before it chooses one
// ([Elect]), because the old master may live on and must get no more acknowledgements. [Node.Follow] attaches the standby
// again.
func (n *Node) Detach(ctx context.Context) (received uint64, err error) {
	n.changing.Lock()
	defer n.changing.Unlock()
	if !n.standby() {
		return 0, n.errorf("detach: it is no standby")
	}
	if err := n.configure(func(s *settings) { s.primary = "" }); err != nil {
		return 0, err
	}
	conn, err := n.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer closeConn(ctx, conn)
	err = poll(ctx, func() (bool, error) {
		receiving := true
		err := conn.QueryRow(ctx, `select exists(select from pg_stat_wal_receiver),
			(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint`).Scan(&receiving, &received)
		return !receiving, err
	})
	if err != nil {
		return 0, n.serverError("detach", err)
	}
	return received, nil
}

// Promote makes a running standby the master and returns once it accepts writes, after some 30 ms. It fails on a master. The
// other standbys go on following their present master: see [Node.TakeOver].
func (n *Node) Promote(ctx context.Context) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	conn, err := n.Conn(ctx)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	recovering := true
	if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&recovering); err != nil {
		return n.serverError("promote", err)
	}
	if !recovering {
		return n.errorf("promote: it is already a master")
	}
	if _, err := conn.Exec(ctx, "select pg_promote(false)"); err != nil {
		return n.serverError("promote", err)
	}
	err = poll(ctx, func() (bool, error) {
		err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&recovering)
		return !recovering, err
	})
	if err != nil {
		return n.serverError("promote", err)
	}
	return n.configure(func(s *settings) { s.primary = "" })
}

// WaitStreaming returns once the node streams from master and has replayed all WAL that master had flushed when the call began.
// It fails when ctx ends or the node's server ends.
func (n *Node) WaitStreaming(ctx context.Context, master *Node) error {
	conn, err := master.Conn(ctx)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	var flushed string
	if err := conn.QueryRow(ctx, flushedQuery).Scan(&flushed); err != nil {
		return master.serverError("tell its WAL position", err)
	}
	err = poll(ctx, func() (bool, error) {
		if !n.Running() {
			return false, fmt.Errorf("its server has ended")
		}
		streaming := false
		err := conn.QueryRow(ctx, streamingQuery, n.name, flushed).Scan(&streaming)
		return streaming, err
	})
	if err != nil {
		return n.serverError("stream from "+master.name, err)
	}
	return nil
}

const (
	// flushedQuery works on a standby too, which may have standbys of its own.
	flushedQuery = `select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
		else pg_current_wal_flush_lsn() end)::text`

	// streamingQuery may find several rows of one name for a moment: a broken connection and the next one.
	streamingQuery = `select coalesce(bool_or(state = 'streaming' and replay_lsn >= $2::text::pg_lsn), false)
		from pg_stat_replication where application_name = $1`
)

// waitSynchronous returns once synchronous_standby_names = names applies on the node, a master, which has been signalled to
// reload. A new connection inherits the postmaster's settings. If it has the names, the postmaster has signalled all its
// children. Commits wait only once the checkpointer, one of these children, has set a flag in shared memory. The checkpointer
// does that before it executes a CHECKPOINT.
func (n *Node) waitSynchronous(ctx context.Context, names string) error {
	err := poll(ctx, func() (bool, error) {
		conn, err := n.Conn(ctx)
		if err != nil {
			return false, err
		}
		defer closeConn(ctx, conn)
		var seen string
		if err := conn.QueryRow(ctx, "show synchronous_standby_names").Scan(&seen); err != nil || seen != names {
			return false, err
		}
		_, err = conn.Exec(ctx, "checkpoint")
		return true, err
	})
	if err != nil {
		return n.serverError("synchronous_standby_names", err)
	}
	return nil
}

// closeConn closes a connection properly, even if ctx has ended.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	_ = conn.Close(context.WithoutCancel(ctx)) // nothing depends on how it ends
}
