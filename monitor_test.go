package hasql

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/pgfake"
)

// failProbe makes every node answer a probe statement with the error that fail returns, else as usual.
func failProbe(c *pgfake.Cluster, sql string, fail func(*pgfake.Session) error) {
	columns := probeColumns
	if sql == stateProbe {
		columns = columns[:stateColumns]
	}
	c.Handle(sql, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
		if err := fail(s); err != nil {
			return nil, err
		}
		result, err := answerProbe(s, args)
		if err != nil {
			return nil, err
		}
		return pgfake.Row(result.Rows[0][:len(columns)]...), nil
	}, columns...)
}

// failing fails so many times on one node.
func failing(node, code string, times int64) func(*pgfake.Session) error {
	var left atomic.Int64
	left.Store(times)
	return func(s *pgfake.Session) error {
		if s.Node().Name() == node && left.Add(-1) >= 0 {
			return pgfake.Errorf(code, "an error of the probe's")
		}
		return nil
	}
}

const forEver = 1 << 40

// monitorPID is the backend of a node's monitor, which was there first.
func monitorPID(c *pgfake.Cluster, node string) uint32 { return c.Node(node).PIDs()[0] }

func TestSupersededMasterStaysStaleWhateverItLeavesUnsaid(t *testing.T) {
	for _, test := range []struct {
		code  string
		times int64
	}{{"57014", 1}, {"53200", 1}, {"53200", forEver}, {"42501", forEver}} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			var mu sync.Mutex
			was := make(map[Status]bool)
			pm := open(t, c, func(config *Config) {
				config.Hooks.NodeChanged = func(_, new NodeState) {
					mu.Lock()
					defer mu.Unlock()
					if new.Name == "pg1:5432" {
						was[new.Status] = true
					}
				}
			})
			ready(t, pm)
			c.Node("pg2").Promote()
			if err := pm.WaitNextCheck(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := status(pm, "pg1"); s != StatusStale {
				t.Fatalf("pg1 is %s", s)
			}
			mu.Lock()
			clear(was)
			mu.Unlock()
			failProbe(c, fullProbe, failing("pg1", test.code, test.times))
			c.Node("pg1").Terminate(monitorPID(c, "pg1"))
			c.Node("pg2").Freeze()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := pm.Master().Exec(ctx, "write lost"); err == nil {
				t.Errorf("%s: a write was let through", test.code)
			}
			if log := c.Node("pg1").Log(); len(log) > 0 {
				t.Errorf("%s: the superseded master took %v", test.code, log)
			}
			mu.Lock()
			defer mu.Unlock()
			if was[StatusUp] {
				t.Errorf("%s: the superseded master was up", test.code)
			}
			c.Node("pg2").Thaw()
		})
	}
}

func TestProbeThatFailedOnceIsAskedInFullAgain(t *testing.T) {
	for _, code := range []string{"57014", "53200", "08P01", "40001", "XX000"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			failProbe(c, fullProbe, failing("pg1", code, 1))
			c.Node("pg1").Terminate(monitorPID(c, "pg1"))
			time.Sleep(3 * time.Second)
			n := pm.Stat().Nodes()[0]
			if n.Role != RoleMaster || n.Report.Timeline != 1 || n.Report.Limited != nil || c.Node("pg1").QueryCount(basicProbe) > 0 {
				t.Errorf("%s: %+v", code, n.NodeState)
			}
		})
	}
}

func TestServerThatRefusesTheFullProbeIsAskedForItsRoleAlone(t *testing.T) {
	for _, code := range []string{"42501", "0A000", "55000", "22023", "58P01", "P0001", "25001"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			failProbe(c, fullProbe, failing("pg1", code, forEver))
			pm := open(t, c)
			ready(t, pm)
			time.Sleep(10 * time.Second)
			n := pm.Stat().Nodes()[0]
			if asked := c.Node("pg1").QueryCount(fullProbe); n.Role != RoleMaster || n.Report.Limited == nil || asked != 2 {
				t.Errorf("%s: asked in full %d times, %+v", code, asked, n.NodeState)
			}
		})
	}
}

func TestRefusalOfTheFullProbeThatPassesLimitsNoNodeForLong(t *testing.T) {
	for _, code := range []string{"58P01", "42501", "55000"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			failProbe(c, fullProbe, failing("pg1", code, 1))
			c.Node("pg1").Terminate(monitorPID(c, "pg1"))
			time.Sleep(3 * time.Second)
			if pm.Stat().Nodes()[0].Report.Limited == nil {
				t.Fatalf("%s: the probe was not refused", code)
			}
			time.Sleep(4 * time.Second)
			if n := pm.Stat().Nodes()[0]; n.Role != RoleMaster || n.Report.Limited != nil || n.Report.LSN == 0 {
				t.Errorf("%s: still limited: %+v", code, n.NodeState)
			}
			before := c.Node("pg1").QueryCount(fullProbe)
			time.Sleep(time.Minute)
			if again := c.Node("pg1").QueryCount(fullProbe) - before; again > 0 {
				t.Errorf("%s: asked in full %d times more", code, again)
			}
		})
	}
}

func TestNodeKeepsItsRoleWhileARefusedProbeIsAskedAgain(t *testing.T) {
	for _, code := range []string{"57014", "53200", "40001", "XX000"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			var refusals atomic.Int64
			failProbe(c, fullProbe, func(s *pgfake.Session) error {
				switch {
				case s.Node().Name() != "pg1":
					return nil
				case refusals.Add(1) == 1:
					return pgfake.Errorf("42501", "permission denied")
				}
				return pgfake.Errorf(code, "an error of the probe's")
			})
			var changes atomic.Int64
			pm := open(t, c, func(config *Config) {
				config.Hooks.NodeChanged = func(_, new NodeState) {
					if new.Name == "pg1:5432" {
						changes.Add(1)
					}
				}
			})
			ready(t, pm)
			before := changes.Load()
			time.Sleep(20 * time.Second)
			if refusals.Load() < 2 || changes.Load() != before || pm.Stat().Nodes()[0].Report.Limited == nil {
				t.Errorf("%s: asked in full %d times, changed %d times", code, refusals.Load(), changes.Load()-before)
			}
		})
	}
}

func TestStateProbeThatFailedIsNotRepeatedAtOnce(t *testing.T) {
	for _, code := range []string{"XX000", "53200", "57014", "40001"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			var suspected atomic.Int64
			pm := open(t, c, func(config *Config) {
				config.Hooks.NodeChanged = func(_, new NodeState) {
					if new.Name == "pg2:5432" && new.Status == StatusSuspect {
						suspected.Add(1)
					}
				}
			})
			ready(t, pm)
			var asked atomic.Int64
			failProbe(c, stateProbe, func(s *pgfake.Session) error {
				if s.Node().Name() == "pg2" && asked.Add(1)%2 == 0 {
					return pgfake.Errorf(code, "an error of the probe's")
				}
				return nil
			})
			time.Sleep(20 * time.Second)
			if n, of := suspected.Load(), asked.Load(); of < 10 || n != of/2 {
				t.Errorf("%s: suspect %d times though every other of %d probes failed", code, n, of)
			}
			if n := c.Node("pg2").Dials(); n > 22 {
				t.Errorf("%s: %d sessions in 20 s", code, n)
			}
		})
	}
}

func TestServerThatRefusesTheStateProbeKeepsItsRole(t *testing.T) {
	for _, test := range []struct {
		code    string
		times   int64
		also    int64 // fullProbe on a new connection
		limited bool
	}{{"42501", 1, 0, false}, {"26000", 1, 0, false}, {"42501", forEver, 0, false}, {"26000", forEver, 0, false}, {"42501", forEver, forEver, true}} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			failProbe(c, stateProbe, failing("pg1", test.code, test.times))
			failProbe(c, fullProbe, failing("pg1", test.code, test.also))
			before := c.Node("pg1").QueryCount(fullProbe)
			for range 20 {
				time.Sleep(time.Second)
				if s := status(pm, "pg1"); s != StatusUp {
					t.Fatalf("%+v: pg1 is %s", test, s)
				}
			}
			n := pm.Stat().Nodes()[0]
			if n.Role != RoleMaster || (n.Report.Limited != nil) != test.limited {
				t.Errorf("%+v: %s as %s, %v", test, n.Status, n.Role, n.Report.Limited)
			}
			if asked := c.Node("pg1").QueryCount(fullProbe) - before; asked > 25 || test.times == 1 && asked > 1 {
				t.Errorf("%+v: asked in full %d times in 20 s", test, asked)
			}
		})
	}
}

// A handshake, a name service or a login that asks elsewhere may take longer than an answer over a connection that is there.
func TestNodeThatTakesLongToConnectToComesBack(t *testing.T) {
	for name, gone := range map[string][2]func(*pgfake.Node){
		"cut":   {(*pgfake.Node).Cut, (*pgfake.Node).Heal},
		"crash": {(*pgfake.Node).Kill, (*pgfake.Node).Start},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				n := c.Node("pg1")
				pm := open(t, c)
				ready(t, pm)
				n.DialTime(1800 * time.Millisecond) // less than ConnectTimeout
				gone[0](n)
				time.Sleep(10 * time.Second)
				if s := status(pm, "pg1"); s != StatusDown {
					t.Fatalf("pg1 is %s", s)
				}
				gone[1](n)
				ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
				defer cancel()
				if err := pm.Ready(ctx, 1, 2); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestStallShorterThanDownTimeoutNeverCuts(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.CheckInterval = 5 * time.Second })
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		for i := range 20 {
			time.Sleep(10*time.Second + time.Duration(i)*250*time.Millisecond) // whenever the last probe was
			c.Node("pg1").Freeze()
			time.Sleep(DefaultDownTimeout - 50*time.Millisecond)
			c.Node("pg1").Thaw()
			if _, err := conn.Exec(t.Context(), "write patient"); err != nil {
				t.Fatalf("stall %d: %v", i, err)
			}
		}
	})
}

func TestEvidenceIsAsFreshAsPromisedThoughAnswersAreSlow(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		time.Sleep(5 * time.Second) // by now a probe is one round trip
		for _, n := range c.Nodes() {
			n.Latency(400 * time.Millisecond)
		}
		for range 100 {
			time.Sleep(50 * time.Millisecond)
			for n := range pm.Snapshot().Nodes() {
				if age := time.Since(n.ReportedAt); n.Status != StatusUp || age > DefaultCheckInterval*11/10+DefaultCheckTimeout {
					t.Errorf("%s is %v by an answer of %v ago", n.Name, n.Status, age)
				}
			}
		}
	})
}

func TestLossOfTheMonitorsSessionAloneNeverCuts(t *testing.T) {
	service := errors.New("token service unavailable")
	for name, prepare := range map[string]func(context.Context) error{
		"hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"fails": func(context.Context) error { return service },
		"times out": func(ctx context.Context) error {
			select {
			case <-time.After(4250 * time.Millisecond):
				return service
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			var broken atomic.Bool
			pm := open(t, c, func(config *Config) {
				config.Nodes[0].Pool.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
					if broken.Load() {
						return prepare(ctx)
					}
					return nil
				}
			})
			ready(t, pm)
			conn := acquire(t, pm.AcquireMaster)
			defer conn.Release()
			broken.Store(true)
			c.Node("pg1").Terminate(monitorPID(c, "pg1"))
			time.Sleep(20 * time.Second)
			if s := status(pm, "pg1"); s != StatusSuspect {
				t.Errorf("the hook %s: pg1 is %s", name, s)
			}
			if _, err := conn.Exec(t.Context(), "write x"); err != nil {
				t.Errorf("the hook %s: %v", name, err)
			}
		})
	}
}

// endsWith is a connection that reads one byte, or none, and then fails.
type endsWith struct {
	net.Conn
	bytes int
	err   error
}

func (c *endsWith) Read(b []byte) (int, error) {
	if c.bytes == 0 {
		return 0, c.err
	}
	c.bytes--
	return c.Conn.Read(b[:1])
}

func TestNodeThatAnswersIsNotDownThoughNobodyGetsIn(t *testing.T) {
	for _, test := range []struct {
		name  string
		bytes int
		err   error
		want  Status
	}{
		{"its certificate is not trusted", 1, x509.UnknownAuthorityError{}, StatusSuspect},
		{"it does not trust ours", 1, &net.OpError{Op: "remote error", Err: errors.New("tls: unknown certificate authority")}, StatusSuspect},
		{"it hangs up in the middle", 1, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, StatusSuspect},
		{"it falls silent in the middle", 1, os.ErrDeadlineExceeded, StatusDown},
		{"it hangs up at once", 0, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, StatusDown},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			var broken atomic.Bool
			pm := open(t, c, func(config *Config) {
				conn := config.Nodes[0].Pool.ConnConfig
				dial := conn.DialFunc
				conn.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					socket, err := dial(ctx, network, addr)
					if err == nil && broken.Load() {
						socket = &endsWith{socket, test.bytes, test.err}
					}
					return socket, err
				}
			})
			ready(t, pm)
			conn := acquire(t, pm.AcquireMaster)
			defer conn.Release()
			broken.Store(true)
			c.Node("pg1").Terminate(monitorPID(c, "pg1"))
			time.Sleep(5 * time.Second)
			if s := status(pm, "pg1"); s != test.want {
				t.Errorf("%s: pg1 is %s", test.name, s)
			}
			if _, err := conn.Exec(t.Context(), "write x"); (err == nil) != (test.want == StatusSuspect) {
				t.Errorf("%s: %v", test.name, err)
			}
		})
	}
}

func TestStallWhileAHookHangsIsNotTheNodes(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var broken atomic.Bool
		config, err := ParseConfig(c.Node("pg1").DSN())
		if err != nil {
			t.Fatal(err)
		}
		config.Nodes[0].Pool.ConnConfig.DialFunc = c.Dial
		config.Nodes[0].Pool.ConnConfig.LookupFunc = c.Lookup
		config.Nodes[0].Pool.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
			if broken.Load() {
				select {
				case <-time.After(10 * time.Second):
				case <-ctx.Done():
				}
			}
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		said, down := 0, false
		n := &node{config: config.Nodes[0], load: nodepool.NewLoad(1), checks: newChecks()}
		view := newCluster(time.Now(), storeSettings{})
		var running sync.WaitGroup
		running.Go(func() {
			for _, next := range view.run(ctx) {
				down = down || next.nodes[0].Status == StatusDown
				if said++; said == 1000 {
					cancel() // else time would never go on
				}
			}
		})
		view.tell(membership{asConfigured([]*node{n}), time.Now()})
		running.Go(func() { newMonitor(n, view, config).run(ctx) })
		time.Sleep(500 * time.Millisecond)
		c.Node("pg1").Freeze()
		time.Sleep(DefaultCheckInterval + DefaultCheckTimeout) // it is suspect
		broken.Store(true)
		c.Node("pg1").Terminate(monitorPID(c, "pg1"))
		c.Node("pg1").Latency(450 * time.Millisecond) // so that connecting takes longer than CheckTimeout
		c.Node("pg1").Thaw()
		time.Sleep(20 * time.Second)
		cancel()
		running.Wait()
		if said > 100 {
			t.Errorf("%d observations in 20 s", said)
		}
		if down {
			t.Error("a node that was silent for 1.5 s was given up")
		}
	})
}

func TestSlowHookKeepsNoDeadNodeAlive(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) {
			config.Nodes[0].Pool.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
				time.Sleep(600 * time.Millisecond)
				return nil
			}
		})
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		c.Node("pg1").Terminate(monitorPID(c, "pg1"))
		c.Node("pg1").Cut()
		var err error
		took := timed(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err = conn.Exec(ctx, "write lost")
		})
		if !pgerr.Is[*NodeDownError](err) || took > DefaultDownTimeout+3*600*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
		c.Node("pg1").Heal()
	})
}

func TestCheckerThatFailsWhileTheNodeAnswersNeverCuts(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var broken atomic.Bool
		pm := open(t, c, func(config *Config) {
			config.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				report, err := StandardChecker{}.Check(ctx, conn)
				if broken.Load() {
					return Report{}, errors.New("what a strange answer")
				}
				return report, err
			})
		})
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		broken.Store(true)
		time.Sleep(20 * time.Second)
		if s := status(pm, "pg1"); s != StatusSuspect {
			t.Errorf("pg1 is %s", s)
		}
		if _, err := conn.Exec(t.Context(), "write x"); err != nil {
			t.Error(err)
		}
		broken.Store(false)
		ready(t, pm)
	})
}

func TestCheckerThatClosesItsConnectionIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var asked atomic.Int64
		pm := open(t, c, func(config *Config) {
			config.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				report, err := StandardChecker{}.Check(ctx, conn)
				if asked.Add(1) < 100_000 { // else time would never go on
					_ = conn.Close(ctx)
				}
				return report, err
			})
		})
		ready(t, pm)
		before := asked.Load()
		time.Sleep(10 * time.Second)
		if n := asked.Load() - before; n > 3*1100 { // of three nodes, one per RecoveryInterval
			t.Errorf("%d probes in 10 s", n)
		}
		ready(t, pm)
	})
}

func TestSilenceIsNoticedBesideALongQuery(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.CheckInterval = time.Minute })
		ready(t, pm)
		long, short := acquire(t, pm.AcquireMaster), acquire(t, pm.AcquireMaster)
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() {
			defer long.Release()
			_, _ = long.Exec(t.Context(), "select pg_sleep(600)")
		})
		time.Sleep(10 * time.Second) // its own silence has been probed
		c.Node("pg1").Freeze()
		running.Go(func() {
			defer short.Release()
			_, _ = short.Exec(t.Context(), "write x")
		})
		time.Sleep(DefaultCheckTimeout + 300*time.Millisecond)
		if s := status(pm, "pg1"); s != StatusSuspect {
			t.Errorf("pg1 is %s", s)
		}
	})
}

func TestAtLeastInVainCostsFewProbes(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		before := make(map[string]int)
		for _, n := range c.Nodes() {
			before[n.Name()] = asked(n)
		}
		_, err := pm.Replica(AtLeast(1 << 40)).Acquire(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		for _, n := range c.Nodes() {
			if n, name := asked(n)-before[n.Name()], n.Name(); n > 60 {
				t.Errorf("%d probes of %s in %v", n, name, DefaultAcquireTimeout)
			}
		}
	})
}

func TestMultiMasterKnowsTheLagAndTellsOfMasters(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var mu sync.Mutex
		var told []string
		pm := open(t, c, func(config *Config) {
			config.MultiMaster = true
			config.Hooks.MasterChanged = func(old, new NodeState, _ time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprintf("%s→%s", old.Name, new.Name))
			}
		})
		ready(t, pm)
		c.Node("pg2").PauseReplay()
		for range 3 {
			if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		behind, near := pm.Stat().Nodes()[1], pm.Stat().Nodes()[2]
		if !behind.LagKnown || behind.LagBytes != 3*uint64(pgfake.WriteSize) || behind.LagTime < 3*time.Second || behind.LagTime > 6*time.Second {
			t.Errorf("pg2 is %v and %d bytes behind (%v)", behind.LagTime, behind.LagBytes, behind.LagKnown)
		}
		if !near.LagKnown || near.LagBytes != 0 || near.LagTime != 0 {
			t.Errorf("pg3 is %v and %d bytes behind (%v)", near.LagTime, near.LagBytes, near.LagKnown)
		}
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		c.Node("pg3").Promote()
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if got := strings.Join(told, ", "); got != "→pg1:5432, pg1:5432→, pg1:5432→pg3:5432" {
			t.Errorf("told %s", got)
		}
	})
}

func TestCloseDoesNotWaitForACheckerThatIgnoresItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var hang atomic.Bool
		goOn := make(chan struct{})
		pm := open(t, c, func(config *Config) {
			config.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				if hang.Load() {
					<-goOn
				}
				return StandardChecker{}.Check(ctx, conn)
			})
		})
		ready(t, pm)
		hang.Store(true)
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var err error
		took := timed(func() { err = pm.Close(ctx) })
		if took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "Checker") {
			t.Errorf("after %v: %v", took, err)
		}
		close(goOn)
		if err := pm.Close(t.Context()); err != nil {
			t.Errorf("once the Checker had returned: %v", err)
		}
	})
}

func TestSessionsEndedOneAfterAnotherAreNoDeadNode(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var kills atomic.Int64
		pm := open(t, c, func(config *Config) {
			config.Checker = CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (Report, error) {
				if conn.Config().Host == "pg1" && kills.Add(-1) >= 0 {
					c.Node("pg1").Terminate(conn.PgConn().PID())
				}
				return StandardChecker{}.Check(ctx, conn)
			})
		})
		ready(t, pm)
		for n := range int64(6) { // from the one it has to all that it tries, and more
			kills.Store(n)
			if err := pm.WaitNextCheck(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := status(pm, "pg1"); s == StatusDown {
				t.Errorf("%d sessions ended one after another, and pg1 is %s", n, s)
			}
			ready(t, pm)
		}
	})
}

// slowlyNamed takes its time to say where it leads, which pgx asks for when it sends a cancel request.
type slowlyNamed struct{ net.Conn }

func (c slowlyNamed) RemoteAddr() net.Addr {
	time.Sleep(500 * time.Millisecond)
	return c.Conn.RemoteAddr()
}

func TestMonitorSendsNoCancelRequestsWhileItConnectsAnew(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var dials atomic.Int32
		var first atomic.Pointer[slowlyNamed]
		pm := open(t, c, func(config *Config) {
			config.Nodes[0].Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := c.Dial(ctx, network, addr)
				if dials.Add(1) > 1 || err != nil {
					time.Sleep(time.Second)
					return conn, err
				}
				first.Store(&slowlyNamed{conn})
				return first.Load(), nil
			}
		})
		ready(t, pm)
		if err := first.Load().Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if n := dials.Load(); n != 2 {
			t.Errorf("the monitor lost one connection and dialled %d times", n)
		}
	})
}

func TestReadOnlySpellOfNewSessionsAloneIsSeenAndItsEndToo(t *testing.T) {
	for _, version := range []string{"17.5", "13.1"} { // the older one does not tell what a session began with
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pg1 := c.Node("pg1")
			pg1.SetServerVersion(version)
			pm := open(t, c)
			ready(t, pm)
			for _, spell := range []time.Duration{100 * time.Millisecond, 3 * time.Second, time.Minute} {
				time.Sleep(10 * time.Second)
				held := []*pgxpool.Conn{acquire(t, pm.AcquireMaster)} // so that the next one is new
				pg1.AlterDatabase(true)
				ctx, cancel := context.WithTimeout(t.Context(), DefaultRecoveryInterval)
				defer cancel()
				if conn, err := pm.AcquireMaster(ctx); err == nil { // else it was news sooner
					_, _ = conn.Exec(t.Context(), "write x")
					held = append(held, conn)
				}
				time.Sleep(2 * DefaultRecoveryInterval)
				if n := pm.Snapshot().MasterCount(); n > 0 {
					t.Errorf("PostgreSQL %s: %d masters whose new sessions refuse writes", version, n)
				}
				time.Sleep(spell)
				for _, conn := range held {
					conn.Release()
				}
				pg1.AlterDatabase(false)
				took := timed(func() {
					for range 10 {
						if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
							t.Errorf("PostgreSQL %s: after %v: %v", version, spell, err)
						}
					}
				})
				if took > min(spell, maxReopenPause)+DefaultCheckInterval*11/10 {
					t.Errorf("PostgreSQL %s: written again %v after a spell of %v", version, took, spell)
				}
			}
		})
	}
}

func TestNodeThatIsMeantToBeReadOnlyCostsFewSessions(t *testing.T) {
	for _, limited := range []int64{0, forEver} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			failProbe(c, fullProbe, failing("pg1", "42501", limited))
			c.Node("pg1").SetDefaultReadOnly(true)
			pm := open(t, c)
			if err := pm.Ready(t.Context(), 0, 3); err != nil {
				t.Fatal(err)
			}
			before := c.Node("pg1").Dials()
			time.Sleep(100 * time.Second)
			if n := c.Node("pg1").Dials() - before; n < 15 || n > 25 {
				t.Errorf("%d sessions in 100 s", n)
			}
			for _, standby := range []string{"pg2", "pg3"} {
				if n := c.Node(standby).Dials(); n != 1 {
					t.Errorf("%d sessions for %s, which is a standby", n, standby)
				}
			}
			if n := c.Node("pg1").Conns(); n != 1 {
				t.Errorf("%d sessions are open", n)
			}
		})
	}
}

func TestReadOnlyNodeIsReadThoughNewSessionsAreRefusedOrSlow(t *testing.T) {
	for _, slow := range []bool{false, true} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			var slowly atomic.Bool
			pm := open(t, c, func(config *Config) {
				config.Nodes[0].Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if slowly.Load() {
						time.Sleep(DefaultCheckTimeout + 200*time.Millisecond)
					}
					return c.Dial(ctx, network, addr)
				}
			})
			ready(t, pm)
			time.Sleep(5 * time.Second)
			before := c.Node("pg1").Dials()
			c.Node("pg1").SetDefaultReadOnly(true)
			if slowly.Store(slow); !slow {
				c.Node("pg1").RefuseLogin("53300", "sorry, too many clients already")
			}
			time.Sleep(2 * time.Second)
			for range 300 {
				time.Sleep(100 * time.Millisecond)
				if n := pm.Stat().Nodes()[0]; n.Role != RoleReplica {
					t.Fatalf("slow: %v, and pg1 is %s %s: %v", slow, n.Status, n.Role, n.Cause)
				}
			}
			if n := c.Node("pg1").Dials() - before; n < 5 || n > 12 {
				t.Errorf("%d sessions in 32 s", n)
			}
		})
	}
}

func TestWritesInSessionsThatTheServiceMadeReadOnlyCostFewSessions(t *testing.T) {
	for _, version := range []string{"17.5", "13.1"} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			c.Node("pg1").SetServerVersion(version)
			pm := open(t, c)
			ready(t, pm)
			conn := acquire(t, pm.AcquireMaster)
			defer conn.Release()
			if _, err := conn.Exec(t.Context(), "set session characteristics as transaction read only"); err != nil {
				t.Fatal(err)
			}
			before := c.Node("pg1").Dials()
			for range 3000 { // 30 s
				if _, err := conn.Exec(t.Context(), "write x"); !strings.Contains(fmt.Sprint(err), "25006") || conn.Conn().IsClosed() {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if n, most := c.Node("pg1").Dials()-before, map[string]int{"17.5": 0, "13.1": 12}[version]; n > most {
				t.Errorf("PostgreSQL %s: %d sessions in 30 s", version, n)
			}
			if s := status(pm, "pg1"); s != StatusUp {
				t.Errorf("PostgreSQL %s: pg1 is %s", version, s)
			}
		})
	}
}

func TestHuntAsksOftenAndDialsLessAndLess(t *testing.T) {
	for name, test := range map[string]struct {
		fail, mend func(n *pgfake.Node, hook *atomic.Bool)
		most       int
		late       time.Duration
	}{
		"dead": {
			func(n *pgfake.Node, _ *atomic.Bool) { n.Kill() },
			func(n *pgfake.Node, _ *atomic.Bool) { n.Start() },
			30, maxDialPause * DefaultRecoveryInterval,
		},
		"starting": {
			func(n *pgfake.Node, _ *atomic.Bool) { n.StartingUp(true); n.Crash() },
			func(n *pgfake.Node, _ *atomic.Bool) { n.StartingUp(false) },
			30, maxDialPause * DefaultRecoveryInterval,
		},
		"behind a pooler without it": {
			func(n *pgfake.Node, _ *atomic.Bool) { n.RefuseLogin("08P01", "no such server"); n.TerminateAll() },
			func(n *pgfake.Node, _ *atomic.Bool) { n.AcceptLogin() },
			30, maxDialPause * DefaultRecoveryInterval,
		},
		"with another password": {
			func(n *pgfake.Node, _ *atomic.Bool) {
				n.RefuseLogin("28P01", "password authentication failed")
				n.TerminateAll()
			},
			func(n *pgfake.Node, _ *atomic.Bool) { n.AcceptLogin() },
			7, DefaultCheckInterval,
		},
		"behind a hook that fails": {
			func(n *pgfake.Node, hook *atomic.Bool) { hook.Store(true); n.TerminateAll() },
			func(n *pgfake.Node, hook *atomic.Bool) { hook.Store(false) },
			7, DefaultCheckInterval,
		},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			var failing atomic.Bool
			var tries atomic.Int64
			pm := open(t, c, func(config *Config) {
				config.Nodes[0].Pool.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
					tries.Add(1)
					if failing.Load() {
						return errors.New("token service unavailable")
					}
					return nil
				}
			})
			ready(t, pm)
			before := tries.Load()
			test.fail(c.Node("pg1"), &failing)
			questions := probes(c, "pg2", func() { time.Sleep(5 * time.Second) })
			if n := int(tries.Load() - before); n < 3 || n > test.most {
				t.Errorf("the master is %s: %d tries in 5 s", name, n)
			}
			if questions < 450 {
				t.Errorf("the master is %s: %d questions to a standby in 5 s", name, questions)
			}
			test.mend(c.Node("pg1"), &failing)
			if took := timed(func() { ready(t, pm) }); took > test.late*11/10+DefaultRecoveryInterval {
				t.Errorf("the master was %s, and found %v after it was back", name, took)
			}
		})
	}
}

func TestReplicasAloneAreNotHuntedForAMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.Nodes = config.Nodes[1:] })
		if err := pm.Ready(t.Context(), 0, 2); err != nil {
			t.Fatal(err)
		}
		for _, phase := range []struct {
			of   time.Duration
			most int
		}{{5 * time.Minute, 1350}, {100 * time.Second, 112}} {
			if n := probes(c, "pg2", func() { time.Sleep(phase.of) }); n > phase.most {
				t.Errorf("%d probes in %v", n, phase.of)
			}
		}
		if n := c.Node("pg2").Dials(); n != 1 {
			t.Errorf("%d dials", n)
		}
		c.Node("pg2").Promote()
		if took := timed(func() { acquire(t, pm.AcquireMaster).Release() }); took > DefaultCheckInterval*11/10 {
			t.Errorf("a master was found %v after it had been promoted", took)
		}
	})
}

func TestLatencyStartsAnewAfterAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Node("pg2").Latency(time.Millisecond)
		pm := open(t, c)
		ready(t, pm)
		time.Sleep(10 * time.Second)
		c.Node("pg2").Kill()
		time.Sleep(5 * time.Second)
		c.Node("pg2").Latency(40 * time.Millisecond)
		c.Node("pg2").Start()
		ready(t, pm)
		if n := pm.Stat().Nodes()[1]; n.Latency != 40*time.Millisecond {
			t.Errorf("answers take 40 ms, and the latency is %v", n.Latency)
		}
	})
}
