package hasql

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/pgfake"
)

func TestOnlyWhatCanBeUndoneIsRepeatable(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]bool{
		"select 1":                               true,
		"  INSERT into t values ($1);  ":         true,
		"-- name: AddBrand :exec\ninsert into t": true,
		"/* trace=1 */ -- x\n update t set a=1":  true,
		"delete from t; -- all":                  true,
		"merge into t using s on true":           true,
		"with x as (select 1) table x":           true,
		"values (1)":                             true,
		"insert into a values (1); commit":       false,
		"select ';'":                             false, // it might be two
		"call p()":                               false,
		"do $$begin commit; end$$":               false,
		"vacuum t":                               false,
		"create index concurrently on t (a)":     false,
		"commit":                                 false,
		"selection":                              false,
		"select":                                 false, // a prepared statement's name
		"":                                       false,
		"-- select 1":                            false,
		"/* select 1":                            false,
		"explain analyze insert into t":          false,
		"\xff select 1":                          false,
		"select*from t":                          true,
		"select(1)":                              true,
		`select"a"from t`:                        true,
		"select_all":                             false, // as this may be one too
		"update_stats":                           false,
		"insert-2":                               false,
		"with1":                                  false,
		"/* /* */ select */ call p()":            false,
		"-- x\rcall p(\nvalues )":                false,
		"-- x\rselect 1":                         true,
	} {
		if got := repeatable(sql, nil); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}

func TestStatementThatIsRewrittenIsNotRepeatable(t *testing.T) {
	t.Parallel()
	const sql = "select @a"
	if !repeatable(sql, []any{pgx.NamedArgs{"a": 1}}) || !repeatable(sql, []any{pgx.QueryExecModeExec, pgx.StrictNamedArgs{"a": 1}}) {
		t.Error("named arguments make no other statement of it")
	}
	if repeatable(sql, []any{rewriter{}}) {
		t.Error("nobody knows what becomes of it")
	}
}

type rewriter struct{}

func (rewriter) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return "call p()", nil, nil
}

// ways are those of a route to run one statement.
var ways = map[string]func(ctx context.Context, r *Route, sql string) error{
	"Exec": func(ctx context.Context, r *Route, sql string) error {
		_, err := r.Exec(ctx, sql)
		return err
	},
	"Query": func(ctx context.Context, r *Route, sql string) error {
		rows, _ := r.Query(ctx, sql)
		for rows.Next() {
		}
		if rows.Next() {
			return errors.New("a row after the last")
		}
		return rows.Err()
	},
	"QueryRow": func(ctx context.Context, r *Route, sql string) error {
		var name string
		return r.QueryRow(ctx, sql).Scan(&name)
	},
}

// slow is a statement that takes a second.
const slow = "select slow()"

func TestStatementThatAStoppedServerSendsBackRunsOnTheNext(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				c.Handle(slow, slowly, pgfake.Text("slow"))
				pm := open(t, c)
				ready(t, pm)
				at(500*time.Millisecond, c.Node("pg1").Stop)
				at(800*time.Millisecond, c.Node("pg2").Promote)
				began := time.Now()
				if err := way(t.Context(), pm.Master(), slow); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took < 1800*time.Millisecond || took > 1812*time.Millisecond {
					t.Errorf("it took %v, of which a second on the new master", took)
				}
				for _, n := range pm.Stat().Nodes {
					if lent := n.Pool.AcquiredConns(); lent != 0 {
						t.Errorf("%d connections of %s are still lent", lent, n.Name)
					}
				}
			})
		})
	}
}

func slowly(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
	if err := s.Sleep(time.Second); err != nil {
		return nil, err
	}
	return pgfake.Row(s.Node().Name()), nil
}

// A server that stops refuses new sessions first and then ends the old ones, one after the other: the monitor's, which it
// still answers for a moment, perhaps last.
func TestStatementIsRepeatedThoughTheMonitorsSessionOutlivesIt(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pg1 := c.Node("pg1")
		var pid atomic.Uint32
		c.Handle(slow, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
			if s.Node() == pg1 {
				pid.Store(s.PID())
			}
			return slowly(s, args)
		}, pgfake.Text("slow"))
		pm := open(t, c)
		ready(t, pm)
		at(500*time.Millisecond, func() {
			pg1.StartingUp(true)
			pg1.Terminate(pid.Load())
		})
		at(800*time.Millisecond, func() {
			pg1.Stop()
			c.Node("pg2").Promote()
		})
		if _, err := pm.Master().Exec(t.Context(), slow); err != nil {
			t.Error(err)
		}
	})
}

// In the simple protocol a server may have committed and said so before it obeys the order to stop.
func TestStatementThatHasCommittedIsNotRepeated(t *testing.T) {
	for name, way := range map[string]func(context.Context, *Route, string) error{
		"Exec": ways["Exec"],
		"Query": func(ctx context.Context, r *Route, sql string) error {
			rows, _ := r.Query(ctx, sql, pgx.QueryExecModeSimpleProtocol)
			for rows.Next() {
			}
			return rows.Err()
		},
		"QueryRow": func(ctx context.Context, r *Route, sql string) error {
			var id string
			return r.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(&id)
		},
		"QueryRow without a row": func(ctx context.Context, r *Route, sql string) error {
			var id string
			return r.QueryRow(ctx, sql+" ", pgx.QueryExecModeSimpleProtocol).Scan(&id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				ran := 0
				c.Handle("insert x", func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
					ran++
					s.Node().StartingUp(true) // it takes no new sessions
					result := &pgfake.Result{Tag: "INSERT 0 1", Then: pgfake.Fatalf("57P01", "terminating connection")}
					if name != "QueryRow without a row" {
						result.Rows = [][]any{{"1"}}
					}
					return result, nil
				}, pgfake.Text("id"))
				pm := open(t, c)
				ready(t, pm)
				at(300*time.Millisecond, c.Node("pg2").Promote)
				err := way(t.Context(), pm.Master(), "insert x")
				if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "57P01" || ran != 1 {
					t.Errorf("it ran %d times: %v", ran, err)
				}
			})
		})
	}
}

func TestErrorThatMerelyLooksLikeAShutdownIsNoReasonToRepeat(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Handle("select relay", func(*pgfake.Session, []string) (*pgfake.Result, error) {
			return nil, pgfake.Errorf("57P01", "terminating connection due to administrator command") // of a foreign server
		}, pgfake.Text("x"))
		pm := open(t, c)
		ready(t, pm)
		dials := c.Node("pg1").Dials()
		for range 100 {
			if _, err := pm.Master().Exec(t.Context(), "select relay"); err == nil {
				t.Error("no error")
			}
		}
		if n := c.Node("pg1").Dials() - dials; n > 1 {
			t.Errorf("it cost %d connections", n)
		}
	})
}

func TestStatementWhoseSessionIsTerminatedIsNotRepeated(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				c.Handle(slow, slowly, pgfake.Text("pg_sleep"))
				pm := open(t, c)
				ready(t, pm)
				at(500*time.Millisecond, c.Node("pg1").TerminateAll)
				began := time.Now()
				err := way(t.Context(), pm.Master(), slow)
				if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "57P01" {
					t.Errorf("error %v", err)
				}
				if took := time.Since(began); took > 600*time.Millisecond {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestStatementThatMayHaveCommittedPartsIsNotRepeated(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				ran := 0
				c.Handle("call p()", func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
					ran++
					return nil, s.Sleep(time.Second)
				}, pgfake.Text("p"))
				pm := open(t, c)
				ready(t, pm)
				at(500*time.Millisecond, c.Node("pg1").Stop)
				at(800*time.Millisecond, c.Node("pg2").Promote)
				if err := way(t.Context(), pm.Master(), "call p()"); err == nil {
					t.Error("no error")
				}
				if ran > 2 { // once to learn its columns
					t.Errorf("it ran %d times", ran)
				}
			})
		})
	}
}

func TestEveryWriteGetsThroughASwitchover(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.HandlePrefix("insert ", func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
			if err := s.Sleep(time.Millisecond); err != nil {
				return nil, err
			}
			return &pgfake.Result{Tag: "INSERT 0 1"}, s.Write("x")
		}, pgfake.Text("id"))
		pm := open(t, c)
		ready(t, pm)
		var writers sync.WaitGroup
		for range 8 { // twice as many as a pool has connections
			writers.Go(func() {
				for range 200 {
					if _, err := pm.Master().Exec(t.Context(), "insert x"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		c.Node("pg1").Stop()
		c.Node("pg2").Promote()
		writers.Wait()
	})
}

func TestTransactionBeginsOnTheNextServer(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		acquire(t, pm.AcquireMaster).Release()
		c.Node("pg1").Stop() // and in the same instant, before anybody knows:
		c.Node("pg2").Promote()
		if err := pgx.BeginFunc(t.Context(), pm.Master(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "write x")
			return err
		}); err != nil {
			t.Error(err)
		}
		if !c.Survived("x") {
			t.Error("the write is lost")
		}
	})
}
