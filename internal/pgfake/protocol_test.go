package pgfake

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var modes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement,
	pgx.QueryExecModeCacheDescribe,
	pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec,
	pgx.QueryExecModeSimpleProtocol,
}

func TestHandlerAnswersInEveryMode(t *testing.T) {
	moment := time.Date(2026, 2, 3, 4, 5, 6, 789000, time.UTC)
	columns := []Column{Text("node"), Bool("b"), Int4("i4"), Int8("i8"), Float8("f"), Timestamptz("t"), Int8("null")}
	handler := func(s *Session, _ []string) (*Result, error) {
		state := s.Node().State() // must not deadlock
		row := []any{s.Node().Name(), state.InRecovery, 7, state.SystemID, math.Pi, moment, nil}
		return &Result{Columns: columns, Rows: [][]any{row}}, nil
	}
	for _, declared := range [][]Column{nil, columns} {
		for _, mode := range modes {
			bubble(t, func(t *testing.T, c *Cluster) {
				c.Handle("select probe;", handler, declared...)
				conn := connect(t, c.Node("pg2"))
				for range 2 {
					var (
						node string
						b    bool
						i4   int32
						i8   int64
						f    float64
						at   time.Time
						null *int64
					)
					err := conn.QueryRow(t.Context(), " select probe", mode).Scan(&node, &b, &i4, &i8, &f, &at, &null)
					if err != nil {
						t.Fatalf("%v: %v", mode, err)
					}
					if node != "pg2" || !b || i4 != 7 || i8 != DefaultSystemID || f != math.Pi || !at.Equal(moment) || null != nil {
						t.Errorf("%v: %v %v %v %v %v %v %v", mode, node, b, i4, i8, f, at, null)
					}
				}
			})
		}
	}
}

func TestHandlerReceivesArguments(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Handle("join $1 $2 $3", func(_ *Session, args []string) (*Result, error) {
			return Row(args[0] + "|" + args[1] + "|" + args[2]), nil
		}, Text("joined"))
		conn := connect(t, c.Node("pg1"))
		equal(t, "joined", ask[string](t, conn, "join $1 $2 $3", "a", 17, nil), "a|17|")
		equal(t, "joined", ask[string](t, conn, "join $1 $2 $3", pgx.QueryExecModeExec, "a", true, 1.5), "a|t|1.5")
	})
}

func TestLongestPrefixWins(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		answer := func(text string) Handler {
			return func(*Session, []string) (*Result, error) { return Row(text), nil }
		}
		c.HandlePrefix("select", answer("short"), Text("x"))
		c.HandlePrefix("select from", answer("long"), Text("x"))
		c.Handle("select from t", answer("exact"), Text("x"))
		conn := connect(t, c.Node("pg1"))
		for sql, want := range map[string]string{
			"select 1": "short", "select from u": "long", "select from t": "exact",
		} {
			equal(t, sql, ask[string](t, conn, sql), want)
		}
	})
}

func TestReplacedHandlerReachesPreparedStatements(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		conn := connect(t, c.Node("pg1"))
		for i := range 3 {
			c.Handle("q", func(*Session, []string) (*Result, error) { return Row(i), nil }, Int8("n"))
			equal(t, "answer", ask[int](t, conn, "q"), i)
		}
		c.Handle("q", func(*Session, []string) (*Result, error) { return Row("x"), nil }, Text("n"))
		var got string
		wantState(t, conn.QueryRow(t.Context(), "q").Scan(&got), "0A000")
		equal(t, "answer", ask[string](t, conn, "q"), "x") // pgx has prepared it again
	})
}

func TestHandlerErrors(t *testing.T) {
	for _, mode := range modes {
		bubble(t, func(t *testing.T, c *Cluster) {
			n := c.Node("pg1")
			fail := func(err error) Handler {
				return func(*Session, []string) (*Result, error) { return nil, err }
			}
			c.Handle("e", fail(Errorf("40001", "could not serialize")))
			c.Handle("plain", fail(errors.New("plain")))
			c.Handle("f", fail(Fatalf("57P01", "bye")))
			c.Handle("h", fail(ErrHangUp))
			conn := connect(t, n)
			for sql, code := range map[string]string{"e": "40001", "plain": "XX000", "unknown sql": "42601"} {
				_, err := conn.Exec(t.Context(), sql, mode)
				wantState(t, err, code)
			}
			_, err := conn.Exec(t.Context(), "f", mode)
			wantState(t, err, "57P01")
			equal(t, "closed", conn.IsClosed(), true)
			_, err = connect(t, n).Exec(t.Context(), "h", mode)
			wantState(t, err, "")
			if err == nil {
				t.Error("no error after a hang-up")
			}
		})
	}
}

func TestTransactionStatus(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		conn := connect(t, c.Node("pg1"))
		var seen byte
		c.Handle("tx", func(s *Session, _ []string) (*Result, error) {
			seen = s.TxStatus()
			return nil, nil
		})
		step := func(sql, code string, status byte) {
			t.Helper()
			_, err := conn.Exec(t.Context(), sql)
			wantState(t, err, code)
			equal(t, "status after "+sql, conn.PgConn().TxStatus(), status)
		}
		step("begin", "", 'T')
		step("tx", "", 'T')
		equal(t, "seen by the handler", seen, 'T')
		step("write a", "", 'T')
		step("savepoint s", "", 'T')
		step("write b", "", 'T')
		step("nonsense", "42601", 'E')
		step("write c", "25P02", 'E')
		step("rollback to savepoint s", "", 'T')
		step("write d", "", 'T')
		step("release s", "", 'T')
		equal(t, "before commit", len(c.Node("pg1").Log()), 0)
		step("commit", "", 'I')
		step("START TRANSACTION READ ONLY", "", 'T')
		step("write e", "25006", 'E')
		tag, err := conn.Exec(t.Context(), "commit")
		equal(t, "commit of a failed block", tag.String(), "ROLLBACK")
		wantState(t, err, "")
		step("begin", "", 'T')
		step("write f", "", 'T')
		step("rollback", "", 'I')
		log := c.Node("pg1").Log()
		if len(log) != 2 || log[0].Token != "a" || log[1].Token != "d" {
			t.Errorf("log = %v, want a and d", log)
		}
	})
}

func TestPgxTransactions(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		p := pool(t, c.Node("pg1"), 2)
		err := pgx.BeginFunc(t.Context(), p, func(tx pgx.Tx) error {
			do(t, tx, "write outer")
			nested, err := tx.Begin(t.Context())
			if err != nil {
				return err
			}
			do(t, nested, "write inner")
			return nested.Rollback(t.Context())
		})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "outer", c.Survived("outer"), true)
		equal(t, "inner", c.Survived("inner"), false)
	})
}

func TestSimpleQueryOfSeveralStatements(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		conn := connect(t, c.Node("pg1"))
		results, err := conn.PgConn().Exec(t.Context(), "begin; write 'a'; commit; select role -- ;").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "results", len(results), 4)
		equal(t, "tag", results[2].CommandTag.String(), "COMMIT")
		equal(t, "role", string(results[3].Rows[0][0]), "master")

		_, err = conn.PgConn().Exec(t.Context(), "write b; nonsense; write c").ReadAll()
		wantState(t, err, "42601")
		equal(t, "one implicit transaction", len(c.Node("pg1").Log()), 1)
	})
}

func TestBatch(t *testing.T) {
	for _, mode := range modes {
		bubble(t, func(t *testing.T, c *Cluster) {
			cfg := config(t, c, c.Node("pg1").DSN())
			cfg.DefaultQueryExecMode = mode
			conn, err := pgx.ConnectConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			var b pgx.Batch
			b.Queue("begin")
			b.Queue("write $1", "token")
			b.Queue("commit")
			b.Queue("select role")
			results := conn.SendBatch(t.Context(), &b)
			for range 3 {
				if _, err := results.Exec(); err != nil {
					t.Fatalf("%v: %v", mode, err)
				}
			}
			var role string
			if err := results.QueryRow().Scan(&role); err != nil {
				t.Fatalf("%v: %v", mode, err)
			}
			equal(t, "role", role, "master")
			if err := results.Close(); err != nil {
				t.Fatalf("%v: %v", mode, err)
			}
			equal(t, "survived", c.Survived("token"), true)
		})
	}
}

func TestFailedBatchIsRolledBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Handle("fail", func(s *Session, _ []string) (*Result, error) {
			if s.Describing() {
				return nil, nil
			}
			return nil, Errorf("22012", "division by zero")
		})
		conn := connect(t, c.Node("pg1"))
		var b pgx.Batch
		b.Queue("write a")
		b.Queue("fail")
		b.Queue("write b")
		wantState(t, conn.SendBatch(t.Context(), &b).Close(), "22012")
		equal(t, "log", len(c.Node("pg1").Log()), 0)
		do(t, conn, "write c")
		equal(t, "survived", c.Survived("c"), true)
	})
}

func TestSmallStatements(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		conn := connect(t, c.Node("pg1"))
		equal(t, "select 1", ask[int](t, conn, "/* hello */ SELECT  1;"), 1)
		do(t, conn, "", "set statement_timeout = 5", "select 1", "discard all", "deallocate all")
		if err := conn.DeallocateAll(t.Context()); err != nil {
			t.Error(err)
		}
		if err := conn.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := conn.Prepare(t.Context(), "named", "read"); err != nil {
			t.Error(err)
		}
		equal(t, "prepared", ask[string](t, conn, "named"), "pg1")
		if err := conn.Deallocate(t.Context(), "named"); err != nil {
			t.Error(err)
		}
		do(t, conn, "begin")
		_, err := conn.Exec(t.Context(), "set transaction read only; write a")
		wantState(t, err, "25006")
	})
}
