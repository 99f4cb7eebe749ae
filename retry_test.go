package hasql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
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
		"insert into a values (1); /* x /* y */ z */ insert into b values (2)": false,
		"/* x /* y */ z */ insert into a values (1); insert into b values (2)": false,
		"insert into a values ('x;--'); commit; insert into b values (2)":      false,
		"select 1 /* ;-- */ ; commit; insert into b values (2)":                false,
		`select 1 as "a;--"; commit; insert into b values (2)`:                 false,
		"select $$;--$$; commit; insert into b values (2)":                     false,
		"insert into a values ('x');":                                          true,
		"select ';'":                                                           false, // it might be two
		"call p()":                                                             false,
		"do $$begin commit; end$$":                                             false,
		"vacuum t":                                                             false,
		"create index concurrently on t (a)":                                   false,
		"commit":                                                               false,
		"selection":                                                            false,
		"select":                                                               false, // a prepared statement's name
		"":                                                                     false,
		"-- select 1":                                                          false,
		"/* select 1":                                                          false,
		"explain analyze insert into t":                                        false,
		"\xff select 1":                                                        false,
		"select*from t":                                                        true,
		"select(1)":                                                            true,
		`select"a"from t`:                                                      true,
		"select_all":                                                           false, // as this may be one too
		"update_stats":                                                         false,
		"insert-2":                                                             false,
		"with1":                                                                false,
		"/* /* */ select */ call p()":                                          false,
		"-- x\rcall p(\nvalues )":                                              false,
		"-- x\rselect 1":                                                       true,
	} {
		if got := repeatable(sql, nil); got != want {
			t.Errorf("%q: %v", sql, got)
		}
		end, tag := nodepool.NewEndError("pg1", io.EOF), pgconn.NewCommandTag("INSERT 0 1")
		if several := strings.Contains(sql, "; commit") || strings.Contains(sql, " b values"); several && confirmed(sql, nil, true, tag, end) {
			t.Errorf("%q: the tag may be the first one's", sql)
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
				for _, n := range pm.Stat().Nodes() {
					if lent := n.Pool.AcquiredConns(); lent != 0 {
						t.Errorf("%d connections of %s are still lent", lent, n.Name)
					}
				}
			})
		})
	}
}

// pgx knows the end of a session by the word FATAL, which a server with lc_messages = ru_RU writes as ВАЖНО.
func TestServerThatStopsMaySayItInAnyLanguage(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				c.Handle(slow, slowly, pgfake.Text("slow"))
				pm := open(t, c, func(config *Config) {
					for _, n := range config.Nodes {
						was := n.Pool.ConnConfig.OnPgError
						n.Pool.ConnConfig.OnPgError = func(pg *pgconn.PgConn, err *pgconn.PgError) bool {
							translated := *err
							translated.Severity = "ВАЖНО"
							return was(pg, &translated)
						}
					}
				})
				ready(t, pm)
				at(500*time.Millisecond, c.Node("pg1").Stop)
				at(800*time.Millisecond, c.Node("pg2").Promote)
				if err := way(t.Context(), pm.Master(), slow); err != nil {
					t.Error(err)
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
func TestStatementWhoseTagCameHasSucceeded(t *testing.T) {
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
				if name == "QueryRow without a row" && errors.Is(err, pgx.ErrNoRows) {
					err = nil
				}
				if err != nil || ran != 1 {
					t.Errorf("it ran %d times: %v", ran, err)
				}
			})
		})
	}
}

// The tag of one of several statements may be the first one's, which is undone with the rest.
func TestTagOfSeveralStatementsProvesNothing(t *testing.T) {
	for _, ended := range []*pgfake.Error{pgfake.Fatalf("57P01", "terminating connection"), pgfake.Fatalf("57P05", "idle")} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			c.Handle("insert x; insert y", func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
				s.Node().StartingUp(true)
				return &pgfake.Result{Tag: "INSERT 0 1", Then: ended}, nil
			})
			pm := open(t, c)
			ready(t, pm)
			if _, err := pm.Master().Exec(t.Context(), "insert x; insert y"); !pgerr.IsFatal(err, ended.Code) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A deferred constraint fails after the tag, in the extended protocol.
func TestErrorAfterTheTagIsAnError(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Handle("insert x", func(*pgfake.Session, []string) (*pgfake.Result, error) {
			return &pgfake.Result{Tag: "INSERT 0 1", Then: pgfake.Errorf("23503", "violates a foreign key")}, nil
		}, pgfake.Text("id"))
		pm := open(t, c)
		ready(t, pm)
		for name, way := range ways {
			if err := way(t.Context(), pm.Master(), "insert x"); err == nil || errors.Is(err, pgx.ErrNoRows) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestCommitWhoseTagCameHasSucceeded(t *testing.T) {
	for tag, want := range map[string]error{"COMMIT": nil, "ROLLBACK": errors.New("FATAL")} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			c.Handle("commit", func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
				return &pgfake.Result{Tag: tag, Then: pgfake.Fatalf("57P01", "terminating connection")}, nil
			})
			pm := open(t, c)
			ready(t, pm)
			tx, err := pm.Master().Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(t.Context()); (err == nil) != (want == nil) {
				t.Errorf("%s: %v", tag, err)
			}
			if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("a second end: %v", err)
			}
		})
	}
}

// A server that logs the duration of statements looks for an order to stop when the row is sent and nothing has committed.
func TestRowOfAStatementThatWasUndoneIsNotBelieved(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Handle("insert x returning node", func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
			if s.Node() != c.Node("pg1") {
				return pgfake.Row(s.Node().Name()), nil
			}
			s.Node().StartingUp(true)
			at(300*time.Millisecond, c.Node("pg2").Promote)
			return &pgfake.Result{Rows: [][]any{{"pg1"}}, Then: pgfake.Fatalf("57P01", "terminating connection")}, nil
		}, pgfake.Text("node"))
		pm := open(t, c)
		ready(t, pm)
		var node string
		if err := pm.Master().QueryRow(t.Context(), "insert x returning node").Scan(&node); err != nil || node != "pg2" {
			t.Errorf("%q: %v", node, err)
		}
	})
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

// What a node cannot prove is no reason to repeat what somebody has ended on purpose.
func TestStatementWhoseSessionIsTerminatedIsNotRepeatedWhateverElseIsWrong(t *testing.T) {
	refuses := func(code string) func(*pgfake.Node) {
		return func(n *pgfake.Node) {
			n.RefuseLogin(code, "")
			n.TerminateAll()
		}
	}
	for name, does := range map[string]func(*pgfake.Node){
		"the server is full":              refuses("53300"),
		"the password is another one now": refuses("28P01"),
		"the database is gone":            refuses("3D000"),
		"the object is in use":            refuses("55006"),
		"nothing is heard of the node":    func(n *pgfake.Node) { n.TerminateAll(); n.Freeze() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				ran := 0
				c.Handle(slow, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
					ran++
					return slowly(s, args)
				}, pgfake.Text("slow"))
				pm := open(t, c)
				ready(t, pm)
				at(500*time.Millisecond, func() { does(c.Node("pg1")) })
				at(10*time.Second, c.Node("pg2").Promote)
				if _, err := pm.Master().Exec(t.Context(), slow); !pgerr.IsFatal(err, pgerr.AdminShutdown) || ran != 1 {
					t.Errorf("it ran %d times: %v", ran, err)
				}
			})
		})
	}
}

// A node that is down because it is silent is not proven to be shut down: what hangs may go on.
func TestStatementIsNotRepeatedWhereTheNodeIsDownByMereSilence(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		ran := 0
		c.Handle(slow, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
			ran++
			return slowly(s, args)
		}, pgfake.Text("slow"))
		var hangs atomic.Bool
		pm := open(t, c, func(config *Config) {
			config.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				if hangs.Load() && conn.Config().Host == "pg1" {
					<-ctx.Done()
					return Report{}, ctx.Err()
				}
				return StandardChecker{}.Check(ctx, conn)
			})
		})
		ready(t, pm)
		at(400*time.Millisecond, func() {
			hangs.Store(true)
			nodesOf(pm)[0].checks.checkNow()
		})
		at(500*time.Millisecond, c.Node("pg1").TerminateAll) // while it is being asked
		at(10*time.Second, c.Node("pg2").Promote)
		if _, err := pm.Master().Exec(t.Context(), slow); !pgerr.IsFatal(err, pgerr.AdminShutdown) || ran != 1 {
			t.Errorf("it ran %d times: %v", ran, err)
		}
		if s := status(pm, "pg1"); s != StatusDown {
			t.Errorf("the node is %v", s)
		}
	})
}

// What was known of a node before the session ended may be over: it was down for a moment, and is not being shut down.
func TestNodeThatWasDownBeforeTheErrorDoesNotLeave(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pg1, ran := c.Node("pg1"), 0
		var pid atomic.Uint32
		c.Handle(slow, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
			ran++
			pid.Store(s.PID())
			return slowly(s, args)
		}, pgfake.Text("slow"))
		pm := open(t, c)
		ready(t, pm)
		at(400*time.Millisecond, func() {
			pg1.StartingUp(true)
			for _, other := range pg1.PIDs() {
				if other != pid.Load() {
					pg1.Terminate(other)
				}
			}
		})
		at(450*time.Millisecond, func() {
			if s := status(pm, "pg1"); s != StatusDown {
				t.Errorf("the node is %v", s)
			}
			pg1.StartingUp(false)
			pg1.Terminate(pid.Load())
		})
		if _, err := pm.Master().Exec(t.Context(), slow); !pgerr.IsFatal(err, pgerr.AdminShutdown) || ran != 1 {
			t.Errorf("it ran %d times: %v", ran, err)
		}
	})
}

func TestRepetitionIsAChoice(t *testing.T) {
	for name, way := range map[string]struct {
		edit    func(*Config)
		options []RouteOption
		ran     int
	}{
		"by default":           {func(*Config) {}, nil, 2},
		"not by configuration": {func(c *Config) { c.Repeat = false }, nil, 1},
		"not on this route":    {func(*Config) {}, []RouteOption{WithRepeat(false)}, 1},
		"on this route":        {func(c *Config) { c.Repeat = false }, []RouteOption{WithRepeat(true)}, 2},
		"not where starts are unknown": {func(c *Config) {
			c.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				r, err := StandardChecker{}.Check(ctx, conn)
				r.StartTime = time.Time{}
				return r, err
			})
		}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				ran := 0
				c.Handle(slow, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
					ran++
					return slowly(s, args)
				}, pgfake.Text("slow"))
				pm := open(t, c, way.edit)
				ready(t, pm)
				at(500*time.Millisecond, c.Node("pg1").Stop)
				at(800*time.Millisecond, c.Node("pg2").Promote)
				_, err := pm.Master(way.options...).Exec(t.Context(), slow)
				if ran != way.ran || (err == nil) != (ran == 2) {
					t.Errorf("it ran %d times: %v", ran, err)
				}
			})
		})
	}
}

func TestTransactionBeginsOnAnotherConnection(t *testing.T) {
	for name, does := range map[string]func(*pgfake.Node){
		"sessions were ended":   (*pgfake.Node).TerminateAll,
		"a backend crashed":     (*pgfake.Node).Crash,
		"the server stopped":    (*pgfake.Node).Stop,
		"the server was killed": (*pgfake.Node).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c)
				ready(t, pm)
				acquire(t, pm.AcquireMaster).Release()
				does(c.Node("pg1")) // and in the same instant, before anybody knows:
				at(time.Second, c.Node("pg2").Promote)
				tx, err := pm.Master(WithRepeat(false)).Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := tx.Rollback(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestTransactionThatNeverBeginsEndsWithItsBudget(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		began := 0
		c.Handle("begin", func(*pgfake.Session, []string) (*pgfake.Result, error) {
			began++
			return nil, pgfake.Fatalf("08P01", "server connection crashed") // as a pooler says
		})
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = 10 * time.Second })
		ready(t, pm)
		started := time.Now()
		if _, err := pm.Master().Begin(t.Context()); !pgerr.IsFatal(err, "08P01") {
			t.Error(err)
		}
		if took := time.Since(started); took < 9*time.Second || took > 10*time.Second || began > 40 {
			t.Errorf("it took %v and %d tries", took, began)
		}
	})
}

func TestBudgetOfBeginIsOne(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = 10 * time.Second })
		ready(t, pm)
		c.Handle("begin", func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
			_ = s.Sleep(time.Minute)
			return nil, pgfake.Fatalf("57P01", "stop")
		})
		at(9*time.Second, c.Node("pg1").Kill)
		began := time.Now()
		_, err := pm.Master().Begin(t.Context())
		if took := time.Since(began); took != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", took, err)
		}
	})
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

// A write whose commit waits for a replica when the server stops ends without an answer, and has taken effect. Every other
// one gets through.
func TestEveryWriteGetsThroughASwitchover(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.HandlePrefix("insert ", func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
			if err := s.Sleep(time.Millisecond); err != nil {
				return nil, err
			}
			return &pgfake.Result{Tag: "INSERT 0 1"}, s.Write(args[0])
		}, pgfake.Text("id"))
		pm := open(t, c)
		ready(t, pm)
		var writers sync.WaitGroup
		for w := range 8 { // twice as many as a pool has connections
			writers.Go(func() {
				for i := range 200 {
					token := fmt.Sprint(w, "/", i)
					_, err := pm.Master().Exec(t.Context(), "insert $1", token)
					unanswered := pgerr.Is[*nodepool.EndError](err) && !pgconn.SafeToRetry(err)
					if err != nil && !unanswered || unanswered && !c.Survived(token) {
						t.Errorf("%s: %v", token, err)
					}
					if err == nil && !c.Survived(token) {
						t.Errorf("%s is lost", token)
					}
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		c.Node("pg1").Stop()
		c.Node("pg2").Promote()
		writers.Wait()
		seen := make(map[string]bool)
		for _, r := range c.Node("pg2").Log() {
			if seen[r.Token] {
				t.Errorf("%s is there twice", r.Token)
			}
			seen[r.Token] = true
		}
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
