package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/workload"
)

const schema = `
create table ledger (id bigint primary key, written_at timestamptz not null default now());
` + workload.ProbeSchema

// The server's port shows which node answered.
const (
	insertSQL = `insert into ledger (id) values ($1) returning inet_server_port()`
	selectSQL = `select inet_server_port() from (select max(id) from ledger) l`
)

// subject is a client library under measurement. write and read return the port of the server that answered.
type subject interface {
	write(ctx context.Context, id int64) (port int, err error)
	read(ctx context.Context) (port int, err error)
	close(ctx context.Context) error
}

// contender makes a subject from the DSN of all nodes, which leaves everything but pool_max_conns at its default.
type contender struct {
	name, about string
	open        func(ctx context.Context, dsn string) (subject, error)
}

var contenders = []contender{
	{"hasql", "hasql, default settings", openHasql("")},
	{
		"hasql fast", "hasql, hasql_check_interval=100ms hasql_check_timeout=100ms hasql_down_timeout=1s",
		openHasql("&hasql_check_interval=100ms&hasql_check_timeout=100ms&hasql_down_timeout=1s"),
	},
	{
		"pgxpool", "a pgxpool.Pool for writes, target_session_attrs=read-write, and one for reads, prefer-standby",
		openPgxpool,
	},
}

// rower is the common part of a route and a pool.
type rower interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// routes are the two routes of a subject.
type routes struct {
	master, replica rower
	end             func(context.Context) error
}

func (r *routes) write(ctx context.Context, id int64) (port int, err error) {
	err = r.master.QueryRow(ctx, insertSQL, id).Scan(&port)
	return port, err
}

func (r *routes) read(ctx context.Context) (port int, err error) {
	err = r.replica.QueryRow(ctx, selectSQL).Scan(&port)
	return port, err
}

func (r *routes) close(ctx context.Context) error { return r.end(ctx) }

func openHasql(settings string) func(context.Context, string) (subject, error) {
	return func(ctx context.Context, dsn string) (subject, error) {
		pm, err := hasql.New(ctx, dsn+settings)
		if err != nil {
			return nil, err
		}
		s := &routes{master: pm.Master(), replica: pm.Replica(), end: pm.Close}
		if err := pm.Ready(ctx, -1, -1); err != nil {
			_ = pm.Close(ctx)
			return nil, err
		}
		return s, nil
	}
}

// openPgxpool uses what pgx offers for such clusters. A pool asks each host of the DSN in turn when it opens a connection. It
// keeps open connections, whatever becomes of their node.
func openPgxpool(ctx context.Context, dsn string) (subject, error) {
	master, err := pgxpool.New(ctx, dsn+"&target_session_attrs=read-write")
	if err != nil {
		return nil, err
	}
	replica, err := pgxpool.New(ctx, dsn+"&target_session_attrs=prefer-standby")
	if err != nil {
		master.Close()
		return nil, err
	}
	end := func(ctx context.Context) error {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			master.Close()
			replica.Close()
		}()
		select {
		case <-closed:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("pgxpool did not close: %w", ctx.Err())
		}
	}
	if err := master.Ping(ctx); err != nil {
		_ = end(ctx)
		return nil, err
	}
	return &routes{master: master, replica: replica, end: end}, nil
}
