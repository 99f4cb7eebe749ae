package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgproxy"
)

// The faults of the old master, and what ends them.

func (f *failover) nothing(context.Context) error        { return nil }
func (f *failover) kill(context.Context) error           { return f.nodes[f.old].Kill() }
func (f *failover) killPostmaster(context.Context) error { return f.nodes[f.old].KillPostmaster() }
func (f *failover) freeze(context.Context) error         { return f.nodes[f.old].Freeze() }
func (f *failover) thaw() error                          { return f.nodes[f.old].Thaw() }

func stop(mode pgcluster.StopMode) func(*failover, context.Context) error {
	return func(f *failover, ctx context.Context) error { return f.nodes[f.old].Stop(ctx, mode) }
}

// between injects a fault into the network between the proxied services and the old master.
func between(what func(*pgproxy.Proxy) error) func(*failover, context.Context) error {
	return func(f *failover, _ context.Context) error { return what(f.proxies[f.old]) }
}

func (f *failover) heal() error {
	for _, p := range f.proxies {
		if err := p.Heal(); err != nil {
			return err
		}
	}
	return nil
}

// separate cuts the proxied services from both replicas, and waits until the service that requires a majority has no master.
func (f *failover) separate(ctx context.Context) error {
	others := f.others(f.old)
	f.expectErrors(others...)
	for _, i := range others {
		if err := f.proxies[i].Cut(); err != nil {
			return err
		}
	}
	for _, s := range f.services {
		if s.name == majority {
			return s.await(ctx, "the loss of the majority", func(s *hasql.Snapshot) bool { return s.MasterCount() == 0 })
		}
	}
	return nil
}

// killAhead freezes a replica while writes go on, so that only the other replica has them, and kills the master.
func (f *failover) killAhead(ctx context.Context) error {
	behind := f.others(f.old)[0]
	f.expectErrors(behind)
	if err := f.nodes[behind].Freeze(); err != nil {
		return err
	}
	if err := f.progress(ctx, readers); err != nil {
		return err
	}
	if err := f.nodes[f.old].Kill(); err != nil {
		return err
	}
	return f.nodes[behind].Thaw()
}

// killFarAhead detaches a replica while writes go on, and kills the master.
func (f *failover) killFarAhead(ctx context.Context) error {
	behind := f.nodes[f.others(f.old)[0]]
	if err := behind.WaitStreaming(ctx, f.nodes[f.old]); err != nil { // it has what came before this round
		return err
	}
	if _, err := behind.Detach(ctx); err != nil {
		return err
	}
	if err := f.progress(ctx, readers); err != nil {
		return err
	}
	return f.nodes[f.old].Kill()
}

// killUnheard kills the master while writes wait for the replicas' acknowledgement.
func (f *failover) killUnheard(ctx context.Context) error {
	return f.whileUnheard(ctx, func(conn *pgx.Conn) error { return f.nodes[f.old].Kill() })
}

// dismiss terminates the sessions of writes that wait for the replicas' acknowledgement, and stops the master by a fast
// shutdown, so that the replicas receive all WAL. Each of these writes has taken effect, but no client was told so.
func (f *failover) dismiss(ctx context.Context) error {
	err := f.whileUnheard(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'`)
		return err
	})
	if err != nil {
		return err
	}
	return f.nodes[f.old].Stop(ctx, pgcluster.StopFast)
}

// whileUnheard calls do while the replicas are frozen and writes wait for them.
func (f *failover) whileUnheard(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := f.nodes[f.old].Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, i := range f.others(f.old) {
		if err := f.nodes[i].Freeze(); err != nil {
			return err
		}
	}
	if err := awaitUnheard(ctx, conn); err != nil {
		return err
	}
	if err := do(conn); err != nil {
		return err
	}
	for _, i := range f.others(f.old) {
		if err := f.nodes[i].Thaw(); err != nil {
			return err
		}
	}
	return nil
}

// awaitUnheard waits until several writes wait for the replicas.
func awaitUnheard(ctx context.Context, conn *pgx.Conn) error {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		waiting := 0
		err := conn.QueryRow(ctx, `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`).Scan(&waiting)
		if err != nil || waiting >= len(settings) {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("only %d writes wait for the replicas: %w", waiting, context.Cause(ctx))
		}
	}
}
