package integration

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pghasql/hasql"
)

// dbtx is the interface that sqlc generates for pgx, with all that its annotations can ask for.
type dbtx interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}

var (
	_ dbtx = (*hasql.Route)(nil)
	_ dbtx = (*pgxpool.Pool)(nil)
	_ dbtx = pgx.Tx(nil)
)

// queries is what sqlc makes of a file of SQL.
type queries struct{ db dbtx }

func (q *queries) createAuthor(ctx context.Context, name string) (id int64, err error) {
	err = q.db.QueryRow(ctx, "insert into authors (name) values ($1) returning id", name).Scan(&id)
	return id, err
}

func (q *queries) listAuthors(ctx context.Context) (names []string, err error) {
	rows, err := q.db.Query(ctx, "select name from authors order by id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// routed opens a manager with pools of two connections and a table, whose end checks that none was kept.
func routed(t *testing.T) (*manager, *hasql.Route) {
	m := openReady(t, calmCluster(t), maxConns(2))
	for _, sql := range []string{"drop table if exists authors", "create table authors (id serial primary key, name text not null)"} {
		_, err := m.Master().Exec(testContext(t), sql)
		must(t, err)
	}
	t.Cleanup(func() {
		m.idle()
		if err := acquireAll(m, 2); err != nil {
			t.Errorf("after the test: %v", err)
		}
	})
	return m, m.Master()
}

// acquireAll shows that every connection of the master's pool can be had.
func acquireAll(m *manager, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range n {
		conn, err := m.AcquireMaster(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
	}
	return nil
}

func TestRouteServesCodeThatSqlcGenerated(t *testing.T) {
	ctx := testContext(t)
	m, master := routed(t)
	for _, name := range []string{"Ada", "Grace"} {
		_, err := (&queries{master}).createAuthor(ctx, name)
		must(t, err)
	}
	lsn := hasql.LSN(scan[int64](t, master, flushed))
	names, err := (&queries{m.Replica(hasql.AtLeast(lsn))}).listAuthors(ctx)
	must(t, err)
	if strings.Join(names, " ") != "Ada Grace" {
		t.Errorf("read %v", names)
	}
	must(t, pgx.BeginFunc(ctx, master, func(tx pgx.Tx) error {
		_, err := (&queries{tx}).createAuthor(ctx, "Edsger")
		return err
	}))
	if _, err := (&queries{m.Replica()}).createAuthor(ctx, "Nobody"); err == nil || !strings.Contains(err.Error(), "25006") {
		t.Errorf("a write to a replica: %v", err)
	}
}

func TestRouteMethodsGiveTheirConnectionBack(t *testing.T) {
	ctx := testContext(t)
	m, master := routed(t)
	var n int
	// Each is called so often that it would empty the pool if it kept its connection.
	for name, call := range map[string]func() error{
		"Ping": func() error { return master.Ping(ctx) },
		"Exec": func() error {
			_, err := master.Exec(ctx, "insert into authors (name) values ($1)", name(t))
			return err
		},
		"Exec, failed": func() error {
			_, err := master.Exec(ctx, "select 1/0")
			return failed(err, "22012")
		},
		"Query, read to the end": func() error {
			rows, err := master.Query(ctx, "select generate_series(1, 10)")
			if err != nil {
				return err
			}
			_, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
		"Query, read without Close": func() error {
			rows, err := master.Query(ctx, "select generate_series(1, 10)")
			for err == nil && rows.Next() {
			}
			return errors.Join(err, rows.Err())
		},
		"Query, closed early and twice": func() error {
			rows, err := master.Query(ctx, "select generate_series(1, 10000)")
			if err != nil {
				return err
			}
			rows.Next()
			rows.Close()
			rows.Close()
			return rows.Err()
		},
		"Query, failed at once": func() error {
			rows, err := master.Query(ctx, "selct")
			rows.Close()
			if rows.Next() || !errors.Is(rows.Err(), err) {
				return errors.New("rows beside an error are not in its state")
			}
			return failed(err, "42601")
		},
		"Query, failed later": func() error {
			rows, err := master.Query(ctx, "select 1/(5 - i) from generate_series(1, 10) i")
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return failed(rows.Err(), "22012")
		},
		"Query, wrong Scan": func() error {
			rows, err := master.Query(ctx, "select 'text'")
			if err != nil {
				return err
			}
			rows.Next()
			if rows.Scan(&n) == nil {
				return errors.New("text was read as a number")
			}
			return nil
		},
		"Query, Values": func() error {
			rows, err := master.Query(ctx, "select 1, 'a'")
			if err != nil {
				return err
			}
			defer rows.Close()
			rows.Next()
			values, err := rows.Values()
			if len(values) != 2 || len(rows.FieldDescriptions()) != 2 || rows.Conn() == nil {
				return errors.New("values are missing")
			}
			return err
		},
		"ForEachRow": func() error {
			rows, _ := master.Query(ctx, "select generate_series(1, 10)")
			_, err := pgx.ForEachRow(rows, []any{&n}, func() error { return nil })
			return err
		},
		"QueryRow":             func() error { return master.QueryRow(ctx, "select 1").Scan(&n) },
		"QueryRow, none":       func() error { return is(master.QueryRow(ctx, "select 1 where false").Scan(&n), pgx.ErrNoRows) },
		"QueryRow, failed":     func() error { return failed(master.QueryRow(ctx, "select 1/0").Scan(&n), "22012") },
		"QueryRow, wrong Scan": func() error { return refused(master.QueryRow(ctx, "select 'text'").Scan(&n)) },
		"QueryRow, a panic in Scan": func() (err error) {
			defer func() { recover() }()
			return master.QueryRow(ctx, "select 1").Scan(panicking{})
		},
		"SendBatch": func() error {
			batch := &pgx.Batch{}
			batch.Queue("select 1").QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
			batch.Queue("insert into authors (name) values ('batch')")
			return master.SendBatch(ctx, batch).Close()
		},
		"SendBatch, read by hand": func() error {
			batch := &pgx.Batch{}
			batch.Queue("select 1")
			batch.Queue("select 2")
			results := master.SendBatch(ctx, batch)
			defer results.Close()
			if err := results.QueryRow().Scan(&n); err != nil {
				return err
			}
			_, err := results.Exec()
			return errors.Join(err, results.Close(), results.Close())
		},
		"SendBatch, failed": func() error {
			batch := &pgx.Batch{}
			batch.Queue("select 1")
			batch.Queue("select 1/0")
			batch.Queue("select 2")
			return failed(master.SendBatch(ctx, batch).Close(), "22012")
		},
		"SendBatch, failed in preparation": func() error {
			batch := &pgx.Batch{}
			batch.Queue("selct")
			return failed(master.SendBatch(ctx, batch).Close(), "42601")
		},
		"CopyFrom": func() error {
			copied, err := master.CopyFrom(ctx, pgx.Identifier{"authors"}, []string{"name"}, pgx.CopyFromRows([][]any{{"a"}, {"b"}}))
			if copied != 2 {
				return errors.Join(err, errors.New("not two rows"))
			}
			return err
		},
		"CopyFrom, failed": func() error {
			_, err := master.CopyFrom(ctx, pgx.Identifier{"authors"}, []string{"name"}, pgx.CopyFromRows([][]any{{nil}}))
			return failed(err, "23502")
		},
		"CopyFrom, failed by its source": func() error {
			_, err := master.CopyFrom(ctx, pgx.Identifier{"authors"}, []string{"name"}, pgx.CopyFromFunc(func() ([]any, error) { return nil, errTest }))
			return refused(err)
		},
		"Commit":                func() error { return transact(ctx, master, pgx.Tx.Commit) },
		"Rollback":              func() error { return transact(ctx, master, pgx.Tx.Rollback) },
		"Commit, then Rollback": func() error { return transact(ctx, master, commitThenRollback) },
		"Commit of a failed transaction": func() error {
			return is(transact(ctx, master, func(tx pgx.Tx, ctx context.Context) error {
				if _, err := tx.Exec(ctx, "select 1/0"); err == nil {
					return errors.New("1/0 is a number")
				}
				return tx.Commit(ctx)
			}), pgx.ErrTxCommitRollback)
		},
		"Commit under a context that has ended": func() error {
			return is(transact(ctx, master, func(tx pgx.Tx, _ context.Context) error { return tx.Commit(canceled()) }), context.Canceled)
		},
		"nested transactions": func() error {
			return transact(ctx, master, func(tx pgx.Tx, ctx context.Context) error {
				inner, err := tx.Begin(ctx)
				if err != nil {
					return err
				}
				return errors.Join(inner.Rollback(ctx), tx.Commit(ctx))
			})
		},
		"BeginTx, refused": func() error {
			_, err := master.BeginTx(ctx, pgx.TxOptions{BeginQuery: "begin nonsense"})
			return failed(err, "42601")
		},
		"BeginTxFunc": func() error {
			return pgx.BeginTxFunc(ctx, master, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
				return tx.QueryRow(ctx, "select count(*) from authors").Scan(&n)
			})
		},
		"BeginFunc, failed": func() error {
			return is(pgx.BeginFunc(ctx, master, func(pgx.Tx) error { return errTest }), errTest)
		},
		"AcquireFunc": func() error {
			return is(master.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return errors.Join(conn.Ping(ctx), errTest) }), errTest)
		},
		"Acquire": func() error {
			conn, err := master.Acquire(ctx)
			if err != nil {
				return err
			}
			defer conn.Release()
			return conn.Ping(ctx)
		},
		"Acquire, left in a transaction": func() error {
			conn, err := master.Acquire(ctx)
			if err != nil {
				return err
			}
			defer conn.Release()
			_, err = conn.Exec(ctx, "begin")
			return err
		},
		"a statement under a context that has ended": func() error {
			_, err := master.Exec(canceled(), "select 1")
			return is(err, context.Canceled)
		},
	} {
		for range 5 {
			if err := call(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		m.idle()
		if t.Failed() {
			t.Fatalf("after %s", name)
		}
	}
}

var errTest = errors.New("of a test")

func name(t testing.TB) string { return t.Name() }

// failed expects an error of the server.
func failed(err error, code string) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == code {
		return nil
	}
	return errors.Join(errors.New("not the error "+code), err)
}

func is(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return errors.Join(errors.New("not the error that was expected"), err)
}

func refused(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return nil
}

// panicking is a Scanner with a bug.
type panicking struct{}

func (panicking) Scan(any) error { panic(errTest) }

func commitThenRollback(tx pgx.Tx, ctx context.Context) error {
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	return is(tx.Rollback(ctx), pgx.ErrTxClosed)
}

func transact(ctx context.Context, route *hasql.Route, end func(pgx.Tx, context.Context) error) error {
	tx, err := route.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "insert into authors (name) values ('tx')"); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return end(tx, ctx)
}

func TestBatchMayBeginATransaction(t *testing.T) {
	ctx := testContext(t)
	m, master := routed(t)
	for _, end := range []func(pgx.Tx, context.Context) error{pgx.Tx.Commit, pgx.Tx.Rollback} {
		for range 5 {
			batch := &pgx.Batch{}
			batch.BeginTx(pgx.TxOptions{})
			batch.Queue("insert into authors (name) values ('batched')")
			results := master.SendBatch(ctx, batch)
			tx := results.Tx()
			must(t, results.Close())
			if tx == nil {
				t.Fatal("no transaction")
			}
			if got := scan[int](t, tx, "select count(*) from authors where name = 'batched'"); got == 0 {
				t.Error("the transaction does not see its own write")
			}
			must(t, end(tx, ctx))
		}
		m.idle()
	}
	if got := scan[int](t, master, "select count(*) from authors where name = 'batched'"); got != 5 {
		t.Errorf("%d rows were committed", got)
	}
}

func TestConnectionIsTheDriversOwn(t *testing.T) {
	ctx := testContext(t)
	m, _ := routed(t)
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	_, err = conn.Exec(ctx, "listen news; notify news, 'good'", pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	note, err := conn.Conn().WaitForNotification(ctx)
	must(t, err)
	if note.Payload != "good" {
		t.Errorf("notified of %q", note.Payload)
	}
	_, err = conn.Exec(ctx, "unlisten *")
	must(t, err)
	if _, err := conn.Conn().Prepare(ctx, "answer", "select 42"); err != nil {
		t.Error(err)
	}
	if got := scan[int](t, conn, "answer"); got != 42 {
		t.Errorf("the prepared statement says %d", got)
	}
	conn.Release()
}

func TestHijackedConnectionOutlivesThePool(t *testing.T) {
	ctx := testContext(t)
	m := openReady(t, calmCluster(t))
	conn, err := m.AcquireReplica(ctx)
	must(t, err)
	own := conn.Hijack() // now it is the caller's alone
	must(t, m.Close(ctx))
	if _, err := own.Exec(ctx, "select 1"); err != nil {
		t.Errorf("a hijacked connection after Close: %v", err)
	}
	must(t, own.Close(ctx))
}
