package hasql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/pgfake"
)

func TestNewReturnsAtOnceWhateverStateTheNodesAreIn(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Node("pg1").Cut()
		c.Node("pg2").Kill()
		c.Node("pg3").Freeze()
		began := time.Now()
		pm := open(t, c)
		if took := time.Since(began); took != 0 {
			t.Errorf("New took %v", took)
		}
		at(time.Minute, func() {
			c.Node("pg1").Heal()
			c.Node("pg2").Start()
			c.Node("pg3").Thaw()
		})
		if err := pm.Ready(t.Context(), -1, -1); err != nil {
			t.Error(err)
		}
	})
}

func TestAcquireTimeoutIsOneBudget(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = 7 * time.Second })
		ready(t, pm)
		c.Node("pg2").RefuseLogin("53300", "sorry, too many clients already") // but for the monitor, who is there already
		c.Node("pg1").Kill()
		synctest.Wait()
		at(6*time.Second, c.Node("pg2").Promote)
		began := time.Now()
		_, err := pm.AcquireMaster(t.Context())
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("it took %v", took)
		}
		none, ok := errors.AsType[*NoNodeError](err)
		if !ok || none.Wanted != "master" || none.Waited != 7*time.Second || len(none.Nodes) != 3 || !none.Found || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v", err)
		}
		for _, part := range []string{"no connection to a master within 7s (AcquireTimeout", "pg1:5432 down", "connection refused", "pg2:5432 up master", "too many clients", "pg3:5432 up replica"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
	})
}

func TestAcquireTimeoutCoversThePing(t *testing.T) {
	for _, limit := range []time.Duration{DefaultCheckTimeout / 2, 2 * DefaultCheckTimeout} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) { config.AcquireTimeout = limit })
			ready(t, pm)
			acquire(t, pm.AcquireMaster).Release()
			time.Sleep(10 * time.Second) // idle for so long that it is pinged
			c.Node("pg1").Freeze()
			began := time.Now()
			_, err := pm.AcquireMaster(t.Context())
			failed, ok := errors.AsType[*NoNodeError](err)
			if took := time.Since(began); !ok || took != limit || failed.Waited != took {
				t.Errorf("%v after %v of %v", err, took, limit)
			}
		})
	}
}

func TestCallersContextEndsAnAcquireSooner(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = -1 })
		for _, n := range c.Nodes() {
			n.Kill()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		began := time.Now()
		if _, err := pm.AcquireMaster(ctx); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "AcquireTimeout") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(began); took != 10*time.Minute {
			t.Errorf("it took %v", took)
		}
		ctx, cancel = context.WithCancel(t.Context())
		at(time.Minute, cancel)
		if _, err := pm.AcquireReplica(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestFullPool(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		var held []*pgxpool.Conn
		for range 4 {
			held = append(held, acquire(t, pm.AcquireMaster))
		}
		began := time.Now()
		_, err := pm.AcquireMaster(t.Context())
		if took := time.Since(began); took != DefaultAcquireTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", took, err)
		}
		none, _ := errors.AsType[*NoNodeError](err)
		for _, part := range []string{"hasql: no connection to a master within 30s: all 4 are in use (AcquireTimeout", "pg1:5432 up master, 4 of 4 connections in use"} {
			if !strings.Contains(fmt.Sprint(err), part) || none.InUse != 4 {
				t.Errorf("%v (%d) does not say %q", err, none.InUse, part)
			}
		}
		if s := status(pm, "pg1"); s != StatusUp {
			t.Errorf("a node whose pool is full is %s", s)
		}
		at(3*time.Second, held[0].Release)
		began = time.Now()
		conn := acquire(t, pm.AcquireMaster)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("a place came free after 3s and was taken after %v", took)
		}
		conn.Release()
		for _, h := range held[1:] {
			h.Release()
		}
		if text := err.Error(); !strings.Contains(text, "4 of 4 connections in use") || none.Nodes[0].InUse() != 4 {
			t.Errorf("an error tells of its moment, not of the moment when it is printed: %s", text)
		}
	})
}

func TestThousandWaitersCostNoProbesOfTheirOwn(t *testing.T) {
	probes := func(waiters int) (count int) {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			c.Node("pg1").Kill()
			synctest.Wait()
			before := asked(c.Node("pg2"))
			at(2*time.Second, func() {
				count = asked(c.Node("pg2")) - before
				c.Node("pg2").Promote()
			})
			var all sync.WaitGroup
			for range waiters {
				all.Go(func() {
					conn, err := pm.AcquireMaster(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					conn.Release()
				})
			}
			all.Wait()
			if s := pm.Stat().Target(TargetMaster); s.Acquires != int64(waiters) || s.Waits != int64(waiters) || s.Failures != 0 || s.WaitTime < time.Duration(waiters)*2*time.Second {
				t.Errorf("counted %+v", s)
			}
		})
		return count
	}
	one, thousand := probes(1), probes(1000)
	if one < 180 || one > 225 || thousand > 225 { // 2 s of 10 ms ± 10 %
		t.Errorf("%d probes for one waiter, %d for a thousand", one, thousand)
	}
}

func TestCancelledAcquiresLeaveNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		for range 4 {
			defer acquire(t, pm.AcquireMaster).Release()
		}
		var all sync.WaitGroup
		for i := range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
			all.Go(func() {
				defer cancel()
				if conn, err := pm.AcquireMaster(ctx); err == nil {
					conn.Release()
					t.Error("got a connection from a full pool")
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if lent := poolsOf(pm)[0].InUse(); lent != 4 {
			t.Errorf("%d connections count as in use, 4 are", lent)
		}
		if conns := c.Node("pg1").Conns(); conns != 5 { // and the monitor's
			t.Errorf("%d connections are open", conns)
		}
	})
}

func TestWaitForASnapshot(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		master := func(name string) func(*Snapshot) bool {
			return func(s *Snapshot) bool {
				n, ok := s.Node(name)
				return ok && n.Role == RoleMaster
			}
		}
		began := time.Now()
		if err := pm.WaitFor(t.Context(), master("pg1:5432")); err != nil || time.Since(began) > 0 {
			t.Errorf("what is there already: %v, after %v", err, time.Since(began))
		}
		at(time.Minute, func() {
			c.Node("pg1").Kill()
			c.Node("pg2").Promote()
		})
		if err := pm.WaitFor(t.Context(), master("pg2:5432")); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < time.Minute || took > time.Minute+DefaultCheckInterval {
			t.Errorf("woken after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := pm.WaitFor(ctx, master("pg4:5432"))
		if !pgerr.Is[*NoNodeError](err) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a node that does not exist: %v", err)
		}
		at(time.Minute, func() { _ = pm.Close(context.Background()) })
		if err := pm.WaitFor(t.Context(), (*Snapshot).Closed); !errors.Is(err, ErrClosed) || !pm.Snapshot().Closed() {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestHooksAreJoined(t *testing.T) {
	var calls []string
	note := func(who string) Hooks {
		return Hooks{
			NodeChanged:   func(_, n NodeState) { calls = append(calls, who+" "+n.Name) },
			MasterChanged: func(_, n NodeState, gap time.Duration) { calls = append(calls, fmt.Sprint(who, " ", n.Name, " ", gap)) },
		}
	}
	all := JoinHooks(note("a"), Hooks{}, note("b"))
	all.NodeChanged(NodeState{}, NodeState{Name: "pg1"})
	all.MasterChanged(NodeState{}, NodeState{Name: "pg2"}, time.Second)
	if want := []string{"a pg1", "b pg1", "a pg2 1s", "b pg2 1s"}; !slices.Equal(calls, want) {
		t.Errorf("called %q", calls)
	}
}

func TestReadyTellsThePresent(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg1").Kill()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := pm.Ready(ctx, 1, 1)
		if _, ok := errors.AsType[*NoNodeError](err); !ok || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no set of 1 master and 1 replica within 1s") {
			t.Errorf("without a master: %v", err)
		}
		if err := pm.Ready(t.Context(), 0, 2); err != nil {
			t.Error(err)
		}
		for _, counts := range [][2]int{{-1, 0}, {0, -1}, {-2, -2}, {2, 2}, {4, 0}} {
			if err := pm.Ready(t.Context(), counts[0], counts[1]); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Ready(%d, %d): %v", counts[0], counts[1], err)
			}
		}
	})
}

func TestWaitNextCheckWithAHungNode(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		time.Sleep(10*time.Second + time.Millisecond)
		c.Node("pg3").Freeze()
		began := time.Now()
		if err := pm.WaitNextCheck(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > DefaultCheckTimeout+DefaultRecoveryInterval {
			t.Errorf("it took %v", took)
		}
		if s := status(pm, "pg3"); s != StatusSuspect {
			t.Errorf("pg3 is %s", s)
		}
		c.Node("pg3").Thaw()
	})
}

func TestWaitNextCheckWithANodeThatHangsAlready(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.DownTimeout = time.Hour })
		ready(t, pm)
		c.Node("pg3").Freeze()
		nodesOf(pm)[2].checks.checkNow()
		time.Sleep(DefaultRecoveryInterval) // now it is being asked, and nobody knows yet that it hangs
		for _, most := range []time.Duration{DefaultCheckTimeout, DefaultRecoveryInterval} {
			if took := timed(func() {
				if err := pm.WaitNextCheck(t.Context()); err != nil {
					t.Fatal(err)
				}
			}); took > most {
				t.Errorf("it took %v", took)
			}
		}
		if s := status(pm, "pg3"); s != StatusSuspect {
			t.Errorf("pg3 is %s", s)
		}
		c.Node("pg3").Thaw()
	})
}

func TestCloseEndsEverything(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		for range 4 {
			acquire(t, pm.AcquireReplica).Release()
		}
		c.Node("pg1").Kill()
		synctest.Wait()
		var waiting sync.WaitGroup
		for range 10 {
			for _, wait := range []func() error{
				func() error { _, err := pm.AcquireMaster(t.Context()); return err },
				func() error { return pm.Ready(t.Context(), 1, 1) },
			} {
				waiting.Go(func() {
					if err := wait(); !errors.Is(err, ErrClosed) {
						t.Errorf("a waiter got %v", err)
					}
				})
			}
		}
		synctest.Wait()
		began := time.Now()
		if err := pm.Close(t.Context()); err != nil {
			t.Error(err)
		}
		waiting.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v", took)
		}
		if err := pm.Close(t.Context()); err != nil {
			t.Errorf("the second Close: %v", err)
		}
		if _, err := pm.AcquireReplica(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := pm.WaitNextCheck(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		synctest.Wait() // for the servers to notice
		for _, n := range c.Nodes() {
			if n.Conns() != 0 {
				t.Errorf("%s has %d connections", n.Name(), n.Conns())
			}
		}
	})
}

func TestCloseWaitsForConnectionsInUseAndThenCutsThem(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		patient, endless := acquire(t, pm.AcquireMaster), acquire(t, pm.AcquireMaster)
		at(time.Second, patient.Release)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		err := pm.Close(ctx)
		if took := time.Since(began); took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connections") {
			t.Errorf("after %v: %v", took, err)
		}
		if _, err := endless.Exec(t.Context(), "select 1"); !errors.Is(err, ErrClosed) {
			t.Errorf("on a cut connection: %v", err)
		}
		endless.Release()
		if err := pm.Close(t.Context()); err != nil {
			t.Errorf("once the last connection was released: %v", err)
		}
	})
}

func TestIdleClusterCostsOneProbePerIntervalAndOneConnection(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		time.Sleep(time.Second)
		before := asked(c.Node("pg2"))
		time.Sleep(1000 * time.Second)
		if n := asked(c.Node("pg2")) - before; n < 900 || n > 1112 {
			t.Errorf("%d probes in 1000 s", n)
		}
		for _, n := range c.Nodes() {
			if n.Conns() != 1 || n.Dials() != 1 {
				t.Errorf("%s: %d connections, %d dials", n.Name(), n.Conns(), n.Dials())
			}
		}
	})
}

func TestHuntForAMasterSlowsDown(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg1").Kill()
		synctest.Wait()
		count := func(d time.Duration) int {
			before := asked(c.Node("pg2"))
			time.Sleep(d)
			return asked(c.Node("pg2")) - before
		}
		for _, phase := range []struct {
			of       time.Duration
			low, top int
		}{{5 * time.Second, 450, 560}, {25 * time.Second, 450, 560}, {270 * time.Second, 970, 1210}, {100 * time.Second, 90, 112}} {
			if n := count(phase.of); n < phase.low || n > phase.top {
				t.Errorf("%d probes in %v, not %d to %d", n, phase.of, phase.low, phase.top)
			}
		}
		if dials := c.Node("pg1").Dials(); dials > 1500 {
			t.Errorf("%d dials to the dead node", dials)
		}
	})
}

// userTracer is a tracer of the user's.
type userTracer struct {
	mu               sync.Mutex
	now, most, dials int
}

func (*userTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (*userTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (d *userTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now++
	d.dials++
	d.most = max(d.most, d.now)
	return ctx
}

func (d *userTracer) TraceConnectEnd(context.Context, pgx.TraceConnectEndData) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now--
}

func TestDialsBackOffWhileRefused(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		c.Node("pg1").RefuseLogin("53300", "sorry, too many clients already")
		before := c.Node("pg1").Dials()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if conn, err := pm.AcquireMaster(t.Context()); err == nil {
					conn.Release()
					t.Error("got a connection")
				}
			})
		}
		all.Wait()
		// 30 s: 5, 10, 20, … ms, then every second, two at a time
		if n := c.Node("pg1").Dials() - before; n < 20 || n > 100 {
			t.Errorf("%d dials", n)
		}
		if s := status(pm, "pg1"); s != StatusUp {
			t.Errorf("a full server is %s", s)
		}
	})
}

func TestCheckerOfTheUsers(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var mu sync.Mutex
		behave := "well"
		pm := open(t, c, func(config *Config) {
			config.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				mu.Lock()
				how := behave
				mu.Unlock()
				if conn.Config().Host == "pg3" {
					switch how {
					case "panic":
						panic("oops")
					case "hang":
						time.Sleep(10 * time.Second) // does not heed ctx
					}
				}
				return StandardChecker{}.Check(ctx, conn)
			})
		})
		ready(t, pm)
		for _, how := range []string{"panic", "hang"} {
			mu.Lock()
			behave = how
			mu.Unlock()
			time.Sleep(6 * time.Second)
			if s := status(pm, "pg3"); s == StatusUp {
				t.Errorf("the checker's %s left pg3 %s", how, s)
			}
			if s := status(pm, "pg2"); s != StatusUp {
				t.Errorf("the checker's %s on pg3 left pg2 %s", how, s)
			}
			mu.Lock()
			behave = "well"
			mu.Unlock()
			ready(t, pm)
		}
	})
}

func TestHooksAreToldInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var mu sync.Mutex
		var told []string
		pm := open(t, c, func(config *Config) {
			config.Hooks = Hooks{
				NodeChanged: func(old, new NodeState) {
					if new.Name == "pg2:5432" {
						panic("a panic of a hook's must not end the process")
					}
				},
				MasterChanged: func(old, new NodeState, gap time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, fmt.Sprintf("%s→%s %v", old.Name, new.Name, gap.Round(100*time.Millisecond)))
				},
			}
		})
		ready(t, pm)
		c.Node("pg1").Kill()
		time.Sleep(2 * time.Second)
		c.Node("pg3").Promote()
		acquire(t, pm.AcquireMaster).Release()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		want := "→pg1:5432 0s, pg1:5432→ 0s, pg1:5432→pg3:5432 2s"
		if got := strings.Join(told, ", "); got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	})
}

func TestNoPasswordIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.RequirePassword(true)
		core, logs := observer.New(zapcore.DebugLevel)
		var states []string
		pm := open(t, c, func(config *Config) {
			config.Logger = zap.New(core)
			config.AcquireTimeout = 10 * time.Second
			config.Hooks.NodeChanged = func(old, new NodeState) { states = append(states, fmt.Sprintf("%+v %v", new, new.Cause)) }
			config.Nodes[1].Pool.ConnConfig.Password = "wrong-" + password
		})
		at(time.Second, c.Node("pg1").Kill)
		at(2*time.Second, func() {
			c.Node("pg3").RefuseLogin("3D000", `database "app" does not exist`)
			c.Node("pg3").TerminateAll()
		})
		time.Sleep(4 * time.Second)
		_, err := pm.AcquireMaster(t.Context())
		for _, part := range []string{"password authentication failed", "does not exist", "refused"} {
			if !strings.Contains(fmt.Sprint(err), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
		texts := append(states, fmt.Sprint(err), fmt.Sprintf("%+v", pm.Stat()), fmt.Sprintf("%#v", pm.Stat()))
		for _, value := range []any{pm.Stat(), err} { // as loggers encode what they do not know
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(text))
		}
		for _, entry := range logs.All() {
			texts = append(texts, fmt.Sprint(entry.Message, entry.ContextMap()))
		}
		for _, text := range texts {
			if strings.Contains(text, "secret") || strings.Contains(text, password) {
				t.Errorf("a password is in %s", text)
			}
		}
		if logs.Len() < 5 {
			t.Errorf("only %d log entries", logs.Len())
		}
	})
}

func TestStat(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.FallbackMaster = true })
		ready(t, pm)
		held := acquire(t, pm.AcquireMaster)
		defer held.Release()
		for range 3 {
			acquire(t, pm.AcquireMaster).Release()
		}
		c.Node("pg2").Kill()
		c.Node("pg3").Kill()
		synctest.Wait()
		acquire(t, pm.AcquireReplica).Release()
		time.Sleep(500 * time.Millisecond)
		st := pm.Stat()
		n := st.Nodes()[0]
		if n.Name != "pg1:5432" || n.Role != RoleMaster || n.Status != StatusUp || n.Pool.AcquiredConns() != 1 || n.InUse() != 1 || n.Free() != 3 {
			t.Errorf("pg1: %+v", n)
		}
		if n.Acquires(TargetMaster) != 4 || n.Acquires(TargetReplica) != 1 || st.Target(TargetMaster).Acquires != 4 || st.Target(TargetReplica).Acquires != 1 {
			t.Errorf("acquires of pg1 %d and %d, in total %+v", n.Acquires(TargetMaster), n.Acquires(TargetReplica), st.Target(TargetMaster))
		}
		if n.Age < 0 || n.Age > DefaultCheckInterval*11/10 {
			t.Errorf("age of the evidence %v", n.Age)
		}
		if st.Snapshot() != pm.Snapshot() {
			t.Error("the numbers belong to another snapshot")
		}
		all := make(map[Target]int64)
		for target, counts := range st.Targets() {
			all[target] += counts.Acquires
		}
		if want := map[Target]int64{TargetAny: 0, TargetMaster: 4, TargetReplica: 1, TargetPreferReplica: 0}; !maps.Equal(all, want) {
			t.Errorf("acquires %v", all)
		}
		for range st.Targets() {
			break
		}
		if n.Acquires(Target(9)) != 0 || st.Target(Target(9)) != (TargetStat{}) {
			t.Error("numbers of no target")
		}
		if n := st.Nodes()[1]; n.Status != StatusDown || n.Cause == nil {
			t.Errorf("pg2: %+v", n)
		}
	})
}

func TestMasterAsReplicaWeightIsAShare(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		route := pm.Replica(WithMasterAsReplicaWeight(0.3))
		for range 4000 {
			acquire(t, route.Acquire).Release()
		}
		near(t, "reads on the master", float64(pm.Stat().Nodes()[0].Acquires(TargetReplica))/4000, 0.3)
		c.Node("pg2").Kill()
		c.Node("pg3").Kill()
		synctest.Wait()
		for range 20 { // with the master alone no draw decides
			acquire(t, pm.Replica(WithMasterAsReplicaWeight(1)).Acquire).Release()
			acquire(t, pm.Replica(WithMasterAsReplicaWeight(0.3), WithFallbackMaster(true)).Acquire).Release()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if conn, err := pm.Replica(WithMasterAsReplicaWeight(0.9)).Acquire(ctx); err == nil {
				conn.Release()
				t.Fatal("the master took a share of reads that no replica shares")
			}
			cancel()
		}
	})
}
