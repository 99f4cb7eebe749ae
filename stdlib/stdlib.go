// Package stdlib is for code that wants a *sql.DB: GORM, sqlx, Bun, ent, goose. The *sql.DB follows a route of hasql through
// failovers. It is built on pgx's own package stdlib, whose types, errors and scanning it has.
//
//	pool, err := hasql.New(ctx, "postgres://app@pg1,pg2,pg3/shop")
//	…
//	defer pool.Close(ctx)
//	db := stdlib.OpenDB(pool.Master())
//	defer db.Close()
//
// # What a connection does
//
// Each connection of the *sql.DB is a session of its own, to the node that the route picks when it is dialled. database/sql
// keeps it and lends it out again, so that prepared statements, and the settings, locks and notifications of a *sql.Conn,
// stay where they are. Before it is lent again it is asked whether its node still fits the route: this compares a few numbers, and
// pings only where the connection was idle for a second or another one was lost lately. If the node does not fit, because it
// was demoted, is too far behind or does not answer, the connection is closed and another one is dialled.
//
// A dial waits for a node that fits, for AcquireTimeout at most or until the context of the call ends, and is repeated if it fails.
// When a node is known to be down, superseded or foreign, its connections are cut, those in use included.
//
// # What is never repeated
//
// database/sql repeats a call that returned [driver.ErrBadConn]. It gets that error only where nothing was sent: a
// connection refused before it is lent, or closed before the call. A statement whose connection ends meanwhile fails with
// an error of the connection, and may or may not have taken effect. A statement that a server undoes as it is shut down
// fails with its FATAL 57P01. A Route would run that again, a *sql.DB does not.
package stdlib

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxstdlib "github.com/jackc/pgx/v5/stdlib"

	"github.com/pghasql/hasql"
)

// OpenDB returns a *sql.DB that follows the route. It never blocks. The limits come from the DSN: pool_max_conns is the most
// connections that it opens, on all nodes together, and as many may be idle; pool_max_conn_lifetime and
// pool_max_conn_idle_time are what they are for pgxpool. All can be changed by the methods of sql.DB. (They are those of
// the first node, where nodes differ.)
//
// These connections are beside those of the pools of hasql: both count for max_connections of the server. The caller must
// close the *sql.DB before the PoolManager, whose Close waits for that.
func OpenDB(route *hasql.Route) *sql.DB {
	c := newConnector(route)
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(int(c.config.MaxConns))
	db.SetMaxIdleConns(int(c.config.MaxConns))
	db.SetConnMaxLifetime(c.config.MaxConnLifetime)
	db.SetConnMaxIdleTime(c.config.MaxConnIdleTime)
	return db
}

// Connector returns what [OpenDB] gives to sql.OpenDB, for libraries that wrap it. The limits of a *sql.DB that is made of it
// are those of database/sql: any number of connections, two of them idle.
func Connector(route *hasql.Route) driver.Connector { return newConnector(route) }

type connector struct {
	route   *hasql.Route
	config  *pgxpool.Config
	options []pgxstdlib.OptionOpenDB
}

func newConnector(route *hasql.Route) *connector {
	c := &connector{route: route, config: route.PoolConfig()}
	c.options = []pgxstdlib.OptionOpenDB{
		pgxstdlib.OptionShouldPing(func(context.Context, pgxstdlib.ShouldPingParams) bool { return false }), // reset does
		pgxstdlib.OptionResetSession(c.reset),
	}
	return c
}

// Connect makes a connection, whose concrete type is that of pgx: *stdlib.Conn.
func (c *connector) Connect(ctx context.Context) (conn driver.Conn, err error) {
	err = c.route.ConnectFunc(ctx, func(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
		conn, err = pgxstdlib.GetConnector(*config, c.options...).Connect(ctx)
		if err != nil {
			return nil, err
		}
		return conn.(*pgxstdlib.Conn).Conn(), nil
	})
	if err != nil {
		return nil, err
	}
	if ok, err := c.config.PrepareConn(ctx, conn.(*pgxstdlib.Conn).Conn()); !ok || err != nil {
		_ = conn.Close()
		return nil, cmp.Or(err, driver.ErrBadConn)
	}
	return conn, nil
}

// reset says whether a connection may be lent once more. database/sql takes no notice of other errors than ErrBadConn at this
// point, and would lend the connection.
func (c *connector) reset(ctx context.Context, conn *pgx.Conn) error {
	if ok, err := c.config.PrepareConn(ctx, conn); !ok || err != nil {
		return driver.ErrBadConn
	}
	return nil
}

// Driver returns pgx's.
func (c *connector) Driver() driver.Driver { return pgxstdlib.GetDefaultDriver() }
