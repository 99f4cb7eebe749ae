package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier asks a database. *pgx.Conn, *pgxpool.Pool and *hasql.Route are some. A discoverer that several goroutines use needs one that
// several may use, which *pgx.Conn is not.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// ConnectEachTime returns a Querier that makes a connection for each question by calling connect, and closes it afterwards. It
// is for discoverers that are asked before there is a pool:
//
//	discovery.ConnectEachTime(func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, dsn) })
func ConnectEachTime(connect func(ctx context.Context) (*pgx.Conn, error)) Querier {
	return connector(connect)
}

type connector func(ctx context.Context) (*pgx.Conn, error)

func (c connector) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn, err := c(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		sayGoodbye(conn)
		return nil, err
	}
	return ownRows{rows, conn}, nil
}

// ownRows are rows that close their connection.
type ownRows struct {
	pgx.Rows
	conn *pgx.Conn
}

// closeTimeout limits the goodbye to a server that has answered all that was asked.
const closeTimeout = time.Second

func (r ownRows) Close() {
	r.Rows.Close()
	sayGoodbye(r.conn)
}

func sayGoodbye(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx) // there is nothing left to lose, and the socket is closed in any case
}

// functionMissing are the SQLSTATEs of servers that lack a function or its schema, or have one of other columns.
var functionMissing = []string{"42883", "3F000", "42703", "0A000"}

// query asks for all rows within the time limit. where names the product that answers such a question.
func query[T any](ctx context.Context, q Querier, timeout time.Duration, where, sql string) ([]T, error) {
	timeout = cmp.Or(timeout, DefaultTimeout)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rows, err := q.Query(limited, sql)
	var list []T
	if err == nil {
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	}
	switch {
	case err == nil:
		return list, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, fmt.Errorf("no answer within %v", timeout)
	}
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return nil, errors.New("the connection string makes no sense") // it would be in the error
	}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && slices.Contains(functionMissing, refused.Code) {
		return nil, fmt.Errorf("the server is not one of %s: %w", where, err)
	}
	return nil, err
}
