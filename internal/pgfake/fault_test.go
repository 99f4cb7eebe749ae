package pgfake

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// watch reads a connection in the background, as a monitor does, and delivers
// the error that ends it.
func watch(conn *pgx.Conn) <-chan error {
	ended := background(func() error {
		_, err := conn.WaitForNotification(context.Background())
		return err
	})
	synctest.Wait()
	return ended
}

// refused asserts that nothing listens.
func refused(t *testing.T, n *Node) {
	t.Helper()
	if _, err := dial(t, n); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want ECONNREFUSED", err)
	}
}

func TestKillEndsSocketsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		ended := watch(connect(t, n))
		start := time.Now()
		n.Kill()
		err := <-ended
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Errorf("reader: %v, want EOF", err)
		}
		equal(t, "delay", time.Since(start), 0)
		equal(t, "conns", n.Conns(), 0)
		refused(t, n)

		n.Start()
		conn := connect(t, n)
		equal(t, "role after restart", ask[string](t, conn, "select role"), "master")
	})
}

func TestFirstWriteAfterKillIsTakenByTheKernel(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		nc, err := c.Dial(t.Context(), "tcp", "pg1:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c.Node("pg1").Kill()
		if _, err := nc.Write([]byte("x")); err != nil {
			t.Errorf("first write: %v", err)
		}
		if _, err := nc.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("second write: %v, want EPIPE", err)
		}
	})
}

func TestKillWithUnreadRequestIsAReset(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.Freeze()
		result := background(func() error { return conn.Ping(context.Background()) })
		synctest.Wait()
		n.Kill()
		if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("ping: %v, want ECONNRESET", err)
		}
		n.Start()
		connect(t, n) // a new process is not frozen
	})
}

func TestStopSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		ended := watch(connect(t, n))
		n.Stop()
		wantState(t, <-ended, "57P01")
		refused(t, n)
		before := n.State().StartTime
		time.Sleep(time.Minute)
		n.Start()
		equal(t, "start time", n.State().StartTime.Sub(before), time.Minute)
	})
}

func TestImmediateStopAndCrashOnlyNotice(t *testing.T) {
	for code, fault := range map[string]func(*Node){"57P01": (*Node).StopImmediate, "57P02": (*Node).Crash} {
		bubble(t, func(t *testing.T, c *Cluster) {
			cfg := config(t, c, c.Node("pg1").DSN())
			var noticed string
			cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { noticed = n.Code }
			conn, err := pgx.ConnectConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			ended := watch(conn)
			fault(c.Node("pg1"))
			wantState(t, <-ended, "")
			equal(t, "notice", noticed, code)
			equal(t, "up", c.Node("pg1").State().Up, code == "57P02")
		})
	}
}

func TestStartingUp(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.StartingUp(true)
		_, err := dial(t, n)
		wantState(t, err, "57P03")
		do(t, conn, "select 1")
		n.StartingUp(false)
		connect(t, n)
	})
}

func TestRefuseLogin(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		for _, code := range []string{"28P01", "3D000", "53300"} {
			n.RefuseLogin(code, "no")
			_, err := dial(t, n)
			wantState(t, err, code)
		}
		n.AcceptLogin()
		connect(t, n)
		equal(t, "refused", n.Refused(), 3)
	})
}

func TestLockedTableHangsReadsAlone(t *testing.T) {
	ends := map[string]func(*Node){
		"unlock":  (*Node).UnlockTable,
		"promote": (*Node).Promote,
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *Cluster) {
				n := c.Node("pg2")
				n.LockTable()
				conn := connect(t, n)
				do(t, conn, "select 1", "show transaction_read_only")
				hung := background(exec(conn, "read"))
				time.Sleep(10 * time.Second)
				select {
				case err := <-hung:
					t.Fatalf("a locked table was read: %v", err)
				default:
				}
				equal(t, "on another node", ask[string](t, connect(t, c.Node("pg3")), "read"), "pg3")
				end(n)
				equal(t, "the read", <-hung, nil)
			})
		})
	}
}

func TestReadOfALockedTableCanBeEnded(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg2")
		n.LockTable()
		first, second := connect(t, n), connect(t, n)
		cancelled := background(exec(first, "read"))
		restarted := background(exec(second, "read"))
		time.Sleep(time.Second)
		if err := first.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantState(t, <-cancelled, "57014")
		n.Stop()
		wantState(t, <-restarted, "57P01")
		n.Start()
		equal(t, "after a restart", ask[string](t, connect(t, n), "read"), "pg2")
	})
}

func TestDialTime(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.DialTime(700 * time.Millisecond)
		start := time.Now()
		do(t, conn, "select 1")
		equal(t, "a statement", time.Since(start), 0)
		connect(t, n)
		equal(t, "a dial", time.Since(start), 700*time.Millisecond)
		n.DialTime(2 * time.Second)
		_, err := dial(t, n)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v, want its deadline", err)
		}
		equal(t, "it hung", time.Since(start), 1700*time.Millisecond)
		n.Kill()
		if _, err := dial(t, n); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v, want a refusal", err)
		}
		equal(t, "a refusal", time.Since(start), 1700*time.Millisecond)
	})
}

func TestFreezeHangsStartupAndQueries(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.Freeze()
		start := time.Now()
		if _, err := dial(t, n); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("connect to a frozen node: %v, want its deadline", err)
		}
		equal(t, "startup hung", time.Since(start), time.Second)

		answer := background(exec(conn, "write frozen"))
		time.Sleep(10 * time.Second)
		equal(t, "worked on while frozen", n.QueryCount("write frozen"), 0)
		thawed := time.Now()
		n.Thaw()
		equal(t, "answer", <-answer, nil)
		equal(t, "answered", time.Since(thawed), 0)
		equal(t, "survived", c.Survived("frozen"), true)
	})
}

func TestFreezeInMidStatement(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		start := time.Now()
		time.AfterFunc(time.Second, n.Freeze)
		time.AfterFunc(30*time.Second, n.Thaw)
		do(t, conn, "select pg_sleep(2)")
		equal(t, "took", time.Since(start), 30*time.Second)
	})
}

func TestClientNeverBlocksOnWriteToAFrozenNode(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Node("pg1").Freeze()
		nc, err := c.Dial(t.Context(), "tcp", "pg1:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		for range 100 {
			if _, err := nc.Write(make([]byte, 1<<16)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestCutHangsDialsAndHoldsBytes(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.Cut()
		start := time.Now()
		if _, err := dial(t, n); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v, want its deadline", err)
		}
		equal(t, "dial hung", time.Since(start), time.Second)

		answer := background(exec(conn, "write late"))
		dialled := background(func() error {
			_, err := dial(t, n)
			return err
		})
		time.Sleep(time.Second / 2)
		equal(t, "survived the cut", c.Survived("late"), false)
		n.Heal()
		equal(t, "answer", <-answer, nil)
		equal(t, "survived", c.Survived("late"), true)
		equal(t, "hanging dial after Heal", <-dialled, nil)
	})
}

func TestCutHidesTheDeathOfTheServer(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		ended := watch(connect(t, n))
		n.Cut()
		n.Kill()
		time.Sleep(time.Hour)
		select {
		case err := <-ended:
			t.Fatalf("the reader learnt of a death behind a cut network: %v", err)
		default:
		}
		n.Heal()
		if err := <-ended; err == nil {
			t.Error("no error after Heal")
		}
		refused(t, n)
	})
}

func TestAbandonedRequestArrivesAfterHeal(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.Cut()
		_, err := conn.Exec(within(t, time.Second), "write ghost")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("write: %v, want its deadline", err)
		}
		time.Sleep(time.Minute) // pgx has given up on the connection
		equal(t, "conns behind the cut", n.Conns(), 1)
		n.Heal()
		synctest.Wait()
		equal(t, "survived", c.Survived("ghost"), true)
		equal(t, "conns", n.Conns(), 0)
	})
}

func TestLatencyDelaysTheAnswerNotTheWork(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.Latency(70 * time.Millisecond)
		start := time.Now()
		do(t, conn, "select 1")
		equal(t, "took", time.Since(start), 70*time.Millisecond)

		result := background(exec(conn, "write unheard"))
		time.Sleep(time.Millisecond)
		n.Kill()
		if err := <-result; err == nil {
			t.Error("the answer arrived although the server died before sending it")
		}
		equal(t, "committed", c.Survived("unheard"), true)
	})
}

func TestTerminate(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		a, b := connect(t, n), connect(t, n)
		enda, endb := watch(a), watch(b)
		equal(t, "unknown pid", n.Terminate(1), false)
		equal(t, "known pid", n.Terminate(a.PgConn().PID()), true)
		wantState(t, <-enda, "57P01")
		equal(t, "conns", n.Conns(), 1)
		n.TerminateAll()
		wantState(t, <-endb, "57P01")
		connect(t, n)
	})
}

func TestTerminateInMidStatement(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		time.AfterFunc(time.Second, n.TerminateAll)
		_, err := conn.Exec(t.Context(), "select pg_sleep(60)")
		wantState(t, err, "57P01")
	})
}

func TestCancelRequest(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		time.AfterFunc(time.Second, func() { _ = conn.PgConn().CancelRequest(context.Background()) })
		_, err := conn.Exec(t.Context(), "select pg_sleep(60)")
		wantState(t, err, "57014")
		equal(t, "cancels", n.Cancels(), 1)
		do(t, conn, "select 1")
	})
}

// pgx closes a connection whose query was cancelled in the background, for up to
// 15 s if the server does not answer, and the pool keeps its slot meanwhile.
func TestCancelledQueryOnAFrozenNodeHoldsItsSlot(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		p := pool(t, n, 1)
		do(t, p, "select 1")
		n.Freeze()
		start := time.Now()
		_, err := p.Exec(within(t, time.Second), "select 1")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("query: %v, want its deadline", err)
		}
		again := background(exec(p, "select 1"))
		time.Sleep(14 * time.Second)
		equal(t, "constructing a second connection", p.Stat().ConstructingConns(), 0)
		time.Sleep(time.Minute)
		equal(t, "after asyncClose", p.Stat().ConstructingConns(), 1)
		n.Thaw()
		equal(t, "query after Thaw", <-again, nil)
		equal(t, "took", time.Since(start), 75*time.Second)
	})
}

func TestFrozenSessionsHearOfStopAtThaw(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		ended := watch(connect(t, n))
		n.Freeze()
		n.Stop()
		time.Sleep(time.Minute)
		select {
		case err := <-ended:
			t.Fatalf("a frozen server said goodbye: %v", err)
		default:
		}
		refused(t, n)
		n.Thaw()
		wantState(t, <-ended, "57P01")
	})
}
