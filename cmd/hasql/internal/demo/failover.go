package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// failover plays one run: calm, the death of the master, its replacement, its return, calm again.
func (d *demo) failover(ctx context.Context, pm *hasql.PoolManager) (f failover, err error) {
	// What is to be asked in a hurry is connected to beforehand, past the library.
	standbys, err := d.connectStandbys(ctx)
	if err != nil {
		return f, err
	}
	defer func() {
		for _, conn := range standbys {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if err := sleep(ctx, calmTime); err != nil {
		return f, err
	}
	f.old = d.master
	killed, err := d.kill()
	if err != nil {
		return f, err
	}
	f.killed = killed.Sub(d.load.began)
	if err := d.elect(ctx, killed, standbys, &f); err != nil {
		return f, err
	}
	if err := d.rebuild(ctx, pm, f); err != nil {
		return f, err
	}
	f.until = time.Since(d.load.began)
	return f, nil
}

func (d *demo) connectStandbys(ctx context.Context) (map[int]*pgx.Conn, error) {
	conns := make(map[int]*pgx.Conn)
	for i, n := range d.nodes {
		if i == d.master {
			continue
		}
		conn, err := n.Conn(ctx)
		if err != nil {
			for _, c := range conns {
				c.Close(context.WithoutCancel(ctx))
			}
			return nil, err
		}
		conns[i] = conn
	}
	return conns, nil
}

func (d *demo) kill() (time.Time, error) {
	at := time.Now()
	d.screen.event(at, d.names[d.master]+" killed: kill -9 of all its processes")
	return at, d.nodes[d.master].Kill()
}

// elect does what a failover manager does: it finds the master dead, chooses the replica that has received most,
// promotes it, and points the other one to it.
func (d *demo) elect(ctx context.Context, killed time.Time, standbys map[int]*pgx.Conn, f *failover) error {
	if err := sleep(ctx, time.Until(killed.Add(noticeTime-chooseTime))); err != nil {
		return err
	}
	next, err := furthest(ctx, standbys)
	if err != nil {
		return err
	}
	// The only standby left does not stream yet, so commits must not wait for it: as with Patroni's
	// synchronous_mode, waiting begins when it does.
	if err := d.cluster.SetSynchronous(ctx, d.nodes[next], 0); err != nil {
		return err
	}
	if err := sleep(ctx, time.Until(killed.Add(noticeTime))); err != nil {
		return err
	}
	f.next = next
	began := time.Now()
	f.promoted = began.Sub(d.load.began)
	d.screen.event(began, fmt.Sprintf("%s promoted, as a failover manager would: it has received the most", d.names[next]))
	d.master = next

	probing, stop := context.WithCancel(ctx)
	defer stop()
	found := make(chan acceptance, 1)
	go func() {
		a := awaitWrites(probing, standbys[next])
		if a.err == nil {
			d.screen.event(a.at, d.names[next]+" accepts writes")
		}
		found <- a
	}()
	err = d.nodes[next].Promote(ctx)
	if err == nil {
		err = d.others(next, f.old, func(n *pgcluster.Node) error { return n.Follow(ctx, d.nodes[next]) })
	}
	if err != nil {
		stop()
		<-found
		return err
	}
	accepted := <-found
	if accepted.err != nil {
		return accepted.err
	}
	f.accepted = accepted.at.Sub(d.load.began)
	return d.awaitApplication(ctx, next)
}

// others calls do for the nodes that are neither of two.
func (d *demo) others(a, b int, do func(*pgcluster.Node) error) error {
	for i, n := range d.nodes {
		if i != a && i != b {
			if err := do(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitApplication waits until the application writes to next, but not for ever: the result will tell.
func (d *demo) awaitApplication(ctx context.Context, next int) error {
	patience := time.NewTimer(againTime)
	defer patience.Stop()
	for {
		select {
		case m := <-d.load.moved:
			if m.node == next {
				d.screen.echo(m.at, "the application writes again")
				return nil
			}
		case <-patience.C:
			d.screen.line(d.screen.bad(fmt.Sprintf("the application has not written for %v", againTime)))
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rebuild makes the cluster whole again.
func (d *demo) rebuild(ctx context.Context, pm *hasql.PoolManager, f failover) error {
	next := d.nodes[f.next]
	err := d.others(f.next, f.old, func(n *pgcluster.Node) error { return n.WaitStreaming(ctx, next) })
	if err != nil {
		return err
	}
	if err := d.cluster.SetSynchronous(ctx, next, 1); err != nil {
		return err
	}
	if err := sleep(ctx, settleTime); err != nil {
		return err
	}
	d.screen.event(time.Now(), d.names[f.old]+" rejoins as a replica")
	if err := d.nodes[f.old].Rejoin(ctx, next); err != nil {
		return err
	}
	streaming := time.Now()
	d.screen.echo(streaming, d.names[f.old]+" streams from "+d.names[f.next])
	if err := pm.Ready(ctx, 1, replicas); err != nil {
		return err
	}
	return sleep(ctx, settleTime)
}

// furthest returns the standby that has received the most WAL. A write that one standby has confirmed is there.
func furthest(ctx context.Context, standbys map[int]*pgx.Conn) (node int, err error) {
	node = nobody
	var most hasql.LSN
	for i, conn := range standbys {
		var text string
		if err := conn.QueryRow(ctx, "select coalesce(pg_last_wal_receive_lsn(), '0/0')::text").Scan(&text); err != nil {
			return nobody, err
		}
		lsn, err := hasql.ParseLSN(text)
		if err != nil {
			return nobody, err
		}
		if node == nobody || lsn > most || lsn == most && i < node {
			node, most = i, lsn
		}
	}
	return node, nil
}

// acceptance is the first sign that a node takes writes.
type acceptance struct {
	at  time.Time
	err error
}

// readOnly is the SQLSTATE of a write to a standby, read_only_sql_transaction.
const readOnly = "25006"

// awaitWrites tries to write over conn every millisecond until that works, and returns when the one that did was sent:
// the node accepted writes a moment later at the latest.
func awaitWrites(ctx context.Context, conn *pgx.Conn) acceptance {
	for {
		sent := time.Now()
		_, err := conn.Exec(ctx, "insert into probe default values")
		if err == nil {
			return acceptance{at: sent}
		}
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != readOnly {
			return acceptance{err: err}
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return acceptance{err: err}
		}
	}
}

// sleep waits, or fails when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
