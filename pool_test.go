package hasql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgfake"
)

// everyPool edits the pool of each node.
func everyPool(edit func(*pgxpool.Config)) func(*Config) {
	return func(config *Config) {
		for _, n := range config.Nodes {
			edit(n.Pool)
		}
	}
}

// timed returns what f took.
func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func TestAcquireTimeoutHoldsWhileAfterReleaseHangs(t *testing.T) {
	for _, size := range []int32{1, 4} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			hang := make(chan struct{})
			defer close(hang)
			pm := open(t, c, everyPool(func(p *pgxpool.Config) {
				p.MaxConns = size
				p.AfterRelease = func(*pgx.Conn) bool { <-hang; return true }
			}), func(config *Config) { config.AcquireTimeout = 200 * time.Millisecond })
			ready(t, pm)
			for range size {
				acquire(t, pm.AcquireMaster).Release()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var err error
			took := timed(func() { _, err = pm.AcquireMaster(ctx) })
			if took != 200*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("MaxConns %d: after %v: %v", size, took, err)
			}
		})
	}
}

func TestAcquireTimeoutHoldsAfterABrokenConnectionWasReleased(t *testing.T) {
	for _, size := range []int32{1, 4} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MaxConns = size }),
				func(config *Config) { config.AcquireTimeout = 200 * time.Millisecond })
			ready(t, pm)
			conn := acquire(t, pm.AcquireMaster)
			c.Node("pg1").Freeze()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := conn.Exec(ctx, "write x"); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("on a frozen node: %v", err)
			}
			conn.Release() // pgx cleans it up for up to 15 s
			var err error
			took := timed(func() { _, err = pm.AcquireMaster(t.Context()) })
			if took != 200*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("MaxConns %d: after %v: %v", size, took, err)
			}
			c.Node("pg1").Thaw()
		})
	}
}

func TestAcquireTimeoutHoldsWhereTheConnectionIsPastItsLifetime(t *testing.T) {
	for _, size := range []int32{1, 4} {
		for ends, limit := range map[string]time.Duration{"the budget": 200 * time.Millisecond, "the service": time.Hour} {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c, everyPool(func(p *pgxpool.Config) {
					p.MaxConns = size
					p.MaxConnLifetime, p.MaxConnLifetimeJitter, p.HealthCheckPeriod = time.Minute, 0, time.Hour
					p.ConnConfig.ConnectTimeout = 20 * time.Minute
				}), func(config *Config) { config.AcquireTimeout = limit })
				ready(t, pm)
				acquire(t, pm.AcquireMaster).Release()
				time.Sleep(2 * time.Minute)
				c.Node("pg1").Freeze()
				at(5*time.Second, c.Node("pg2").Promote)
				var conn *pgxpool.Conn
				var err error
				took := timed(func() { conn, err = pm.AcquireMaster(t.Context()) })
				switch {
				case limit < time.Hour:
					if _, ok := errors.AsType[*NoNodeError](err); !ok || took != limit {
						t.Errorf("MaxConns %d: after %v: %v", size, took, err)
					}
				case err != nil:
					t.Error(err)
				default:
					if got := nodeOf(t, conn); got != "pg2" || took > 5*time.Second+20*time.Millisecond {
						t.Errorf("MaxConns %d: served by %s after %v, though %s had ended", size, got, took, ends)
					}
					conn.Release()
				}
				c.Node("pg1").Thaw()
			})
		}
	}
}

func TestConnectionPastItsLifetimeIsReplacedUnseen(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.MaxConnLifetime, p.MaxConnLifetimeJitter, p.HealthCheckPeriod = time.Minute, 0, time.Hour
		}))
		ready(t, pm)
		for range 3 {
			before := c.Node("pg1").Dials()
			acquire(t, pm.AcquireMaster).Release()
			acquire(t, pm.AcquireMaster).Release()
			if n := c.Node("pg1").Dials() - before; n != 1 {
				t.Errorf("%d dials", n)
			}
			time.Sleep(2 * time.Minute)
		}
	})
}

func TestHealthCheckOfThePoolMayDial(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MinConns = 3 }))
		ready(t, pm)
		time.Sleep(time.Minute)
		for _, pid := range c.Node("pg1").PIDs()[2:] { // all but the monitor's and one
			c.Node("pg1").Terminate(pid)
		}
		var conns []*pgxpool.Conn
		for range 3 { // to find out
			conns = append(conns, acquire(t, pm.AcquireMaster))
		}
		for _, conn := range conns {
			_ = conn.Conn().Close(t.Context())
			conn.Release()
		}
		time.Sleep(time.Minute)
		if n := pm.Stat().Nodes()[0].Pool.IdleConns(); n != 3 {
			t.Errorf("%d idle connections", n)
		}
	})
}

// heldPicker picks a node by name. Once armed it takes its time, until the view is a newer one and the acquire picks once
// more; that pick is held.
type heldPicker struct {
	name    string
	picks   atomic.Int32 // up to the one that is held
	chosen  chan struct{}
	proceed chan struct{}
}

func (p *heldPicker) Pick(cs []Candidate) int {
	switch p.picks.Add(-1) {
	case 1:
		time.Sleep(2 * DefaultCheckInterval)
	case 0:
		close(p.chosen)
		<-p.proceed
	}
	return max(0, slices.IndexFunc(cs, func(c Candidate) bool { return c.Name == p.name }))
}

func TestNodeThatIsLostBetweenPickAndBorrowIsNotWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		picker := &heldPicker{name: "pg2:5432", chosen: make(chan struct{}), proceed: make(chan struct{})}
		pm := open(t, c, func(config *Config) { config.Picker = picker })
		ready(t, pm)
		for range 4 { // the pool of pg2 is full
			defer acquire(t, pm.AcquireReplica).Release()
		}
		picker.picks.Store(2)
		served := make(chan string)
		go func() {
			conn, err := pm.AcquireReplica(t.Context())
			if err != nil {
				served <- err.Error()
				return
			}
			defer conn.Release()
			served <- nodeOf(t, conn)
		}()
		<-picker.chosen
		c.Node("pg2").Freeze()
		time.Sleep(DefaultCheckInterval*11/10 + DefaultCheckTimeout)
		if s := status(pm, "pg2"); s != StatusSuspect {
			t.Fatalf("pg2 is %s", s)
		}
		close(picker.proceed)
		if took := timed(func() {
			if got := <-served; got != "pg3" {
				t.Errorf("served by %s", got)
			}
		}); took != 0 {
			t.Errorf("it took %v", took)
		}
		c.Node("pg2").Thaw()
	})
}

func TestPrepareConnMeetsLiveConnectionsOnly(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
				_, err := conn.Exec(ctx, "select 1")
				return err == nil, err
			}
		}))
		ready(t, pm)
		var conns []*pgxpool.Conn
		for range 4 {
			conns = append(conns, acquire(t, pm.AcquireMaster))
		}
		for _, conn := range conns {
			conn.Release()
		}
		time.Sleep(1100 * time.Millisecond)
		for _, pid := range c.Node("pg1").PIDs()[1:] { // all but the monitor's
			c.Node("pg1").Terminate(pid)
		}
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		if got := nodeOf(t, conn); got != "pg1" {
			t.Errorf("served by %s", got)
		}
	})
}

func TestPreferredNodesThatRefuseConnectionsArePassedOver(t *testing.T) {
	for _, test := range []struct {
		name, want string
		full       []string
		options    []RouteOption
	}{
		{"fallback", "pg1", []string{"pg2", "pg3"}, []RouteOption{WithFallbackMaster(true)}},
		{"zone", "pg3", []string{"pg2"}, []RouteOption{WithZone("near")}},
		{"zone and fallback", "pg1", []string{"pg2", "pg3"}, []RouteOption{WithZone("near"), WithFallbackMaster(true)}},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) { config.Nodes[1].Zone = "near" })
			ready(t, pm)
			for _, name := range test.full {
				c.Node(name).RefuseLogin("53300", "sorry, too many clients already")
			}
			for range 10 {
				took := timed(func() {
					conn := acquire(t, pm.Replica(test.options...).Acquire)
					defer conn.Release()
					if got := nodeOf(t, conn); got != test.want {
						t.Errorf("%s: served by %s", test.name, got)
					}
				})
				if took != 0 {
					t.Errorf("%s: it took %v", test.name, took)
				}
				time.Sleep(time.Second)
			}
			if s := status(pm, "pg2"); s != StatusUp {
				t.Errorf("%s: pg2 is %s", test.name, s)
			}
		})
	}
}

func TestFirstServesAloneWhileItFits(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.Picker = First() })
		ready(t, pm)
		reads := func(when, want string) {
			t.Helper()
			for range 20 {
				conn := acquire(t, pm.AcquireReplica)
				if got := nodeOf(t, conn); got != want {
					t.Errorf("%s: served by %s", when, got)
				}
				conn.Release()
			}
		}
		reads("all are there", "pg2")
		c.Node("pg2").Kill()
		time.Sleep(time.Second)
		reads("the first is not", "pg3")
		c.Node("pg2").Start()
		time.Sleep(2*time.Second + slowStart)
		reads("it is back", "pg2")
		conn := acquire(t, pm.Default().Acquire) // any node: the master is the first
		defer conn.Release()
		if got := nodeOf(t, conn); got != "pg1" {
			t.Errorf("any node: %s", got)
		}
	})
}

func TestDialsThatHangDoNotHangOneAfterAnother(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var hang atomic.Bool // once the monitors are connected
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.MaxConns = 20
			p.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if hang.Load() && addr == "pg2:5432" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return c.Dial(ctx, network, addr)
			}
		}), func(config *Config) {
			config.Picker = PickerFunc(func([]Candidate) int { return 0 }) // pg2, as long as it fits
		})
		ready(t, pm)
		hang.Store(true)
		var all sync.WaitGroup
		took := timed(func() {
			for range 20 {
				all.Go(func() {
					conn, err := pm.AcquireReplica(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Release()
					if got := nodeOf(t, conn); got != "pg3" {
						t.Errorf("served by %s", got)
					}
				})
			}
			all.Wait()
		})
		if took > 2*nodepool.DefaultConnectTimeout+100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if s := status(pm, "pg2"); s != StatusUp {
			t.Errorf("pg2 is %s", s)
		}
	})
}

func TestEndedAcquireTellsHowAndWhy(t *testing.T) {
	why := errors.New("the shop has closed")
	ends := map[error]func(context.Context) (context.Context, context.CancelFunc){
		context.Canceled: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			at(time.Second, func() { cancel(why) })
			return ctx, func() { cancel(nil) }
		},
		context.DeadlineExceeded: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Second, why)
		},
	}
	for how, end := range ends {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c)
			ready(t, pm)
			for range 4 {
				defer acquire(t, pm.AcquireMaster).Release()
			}
			for name, wait := range map[string]func(context.Context) error{
				"full pool": func(ctx context.Context) error { _, err := pm.AcquireMaster(ctx); return err },
				"no node":   func(ctx context.Context) error { _, err := pm.Replica(AtLeast(1 << 40)).Acquire(ctx); return err },
				"too late":  func(ctx context.Context) error { <-ctx.Done(); _, err := pm.AcquireReplica(ctx); return err },
				"Ready":     func(ctx context.Context) error { return pm.Ready(ctx, 3, 0) },
			} {
				ctx, cancel := end(t.Context())
				if err := wait(ctx); !errors.Is(err, how) || !errors.Is(err, why) {
					t.Errorf("%s: %v is not both %v and %v", name, err, how, why)
				}
				cancel()
			}
		})
	}
}

func TestNodeThatDiesInAfterConnectFailsNoAcquire(t *testing.T) {
	for name, die := range map[string]func(*pgfake.Node){
		"killed":  (*pgfake.Node).Kill,
		"stopped": (*pgfake.Node).Stop,
		"frozen":  (*pgfake.Node).Freeze,
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, everyPool(func(p *pgxpool.Config) {
				p.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
					if _, err := conn.Exec(ctx, "select pg_sleep(0.01)"); err != nil {
						return fmt.Errorf("setting up: %w", err)
					}
					return nil
				}
			}))
			ready(t, pm)
			at(5*time.Millisecond, func() { die(c.Node("pg1")) })
			at(50*time.Millisecond, c.Node("pg2").Promote)
			var conn *pgxpool.Conn
			took := timed(func() { conn = acquire(t, pm.AcquireMaster) })
			defer conn.Release()
			if got := nodeOf(t, conn); got != "pg2" {
				t.Errorf("%s: served by %s", name, got)
			}
			if took > time.Second {
				t.Errorf("%s: it took %v", name, took)
			}
			c.Node("pg1").Thaw()
		})
	}
}

func TestReturningNodeServesBeforeItsPoolIsFull(t *testing.T) {
	for after := range 5 {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, func(config *Config) {
				config.Nodes[0].Pool.MinConns, config.Nodes[0].Pool.MaxConns = 20, 20
			})
			ready(t, pm)
			c.Node("pg1").Latency(10 * time.Millisecond)
			c.Node("pg1").Kill()
			at(2*time.Second, c.Node("pg1").Start)
			time.Sleep(time.Second)
			if after > 0 { // else it waits for the node itself
				ready(t, pm)
				time.Sleep(time.Duration(after) * 15 * time.Millisecond)
			}
			var conn *pgxpool.Conn
			took := timed(func() { conn = acquire(t, pm.AcquireMaster) })
			conn.Release()
			limit := 25 * time.Millisecond // two dials, of which one was under way
			if after == 0 {
				limit += time.Second + 35*time.Millisecond                // two round trips of the probe, and what it came late
				limit += maxDialPause * DefaultRecoveryInterval * 11 / 10 // which the monitor may rest before
			}
			if took > limit {
				t.Errorf("%d ms after the return: it took %v", after*15, took)
			}
		})
	}
}

func TestHijackedConnectionsDoNotCountForEver(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		held := acquire(t, pm.AcquireMaster)
		for range 100 {
			conn := acquire(t, pm.AcquireMaster).Hijack()
			if err := conn.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Second)
		if n := pm.Stat().Nodes()[0]; n.InUse() != 1 || n.Free() != 3 {
			t.Errorf("%d in use, %d free beside one that is lent", n.InUse(), n.Free())
		}
		held.Release()
		if n := pm.Stat().Nodes()[0]; n.InUse() != 0 || n.Free() != 4 {
			t.Errorf("%d in use, %d free", n.InUse(), n.Free())
		}
	})
}

// poolDials counts the dials of pools alone.
type poolDials struct{ userTracer }

type usersOwn struct{}

func (p *poolDials) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	if ctx.Value(usersOwn{}) != nil {
		return ctx
	}
	return p.userTracer.TraceConnectStart(ctx, data)
}

func (p *poolDials) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	if ctx.Value(usersOwn{}) == nil {
		p.userTracer.TraceConnectEnd(ctx, data)
	}
}

func TestConnectingLikeAPooledConnectionTakesNobodysPlace(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		tracer := &poolDials{}
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.MaxConns = 20
			p.ConnConfig.Tracer = tracer
		}))
		ready(t, pm)
		held := acquire(t, pm.AcquireMaster)
		config := held.Conn().Config()
		pool := poolsOf(pm)[0]
		pool.ResetDials()
		connect := func() {
			conn, err := pgx.ConnectConfig(context.WithValue(t.Context(), usersOwn{}, true), config)
			if err != nil {
				t.Error(err)
				return
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for range 2 * nodepool.FirstDials {
			connect()
		}
		if _, n, _ := pool.Dials(); n != nodepool.FirstDials {
			t.Errorf("%d dials at once are allowed after those of the user's own", n)
		}
		c.Node("pg1").Latency(100 * time.Millisecond)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				conn, err := pm.AcquireMaster(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(10 * time.Second)
				conn.Release()
			})
		}
		time.Sleep(50 * time.Millisecond)
		for range 3 {
			connect()
		}
		all.Wait()
		held.Release()
		if tracer.dials != 11 {
			t.Errorf("%d dials", tracer.dials)
		}
		if places, n, limit := pool.Dials(); n != limit || n != places {
			t.Errorf("%d of %d places are free, of which there shall be %d", n, places, limit)
		}
	})
}

func TestAcquireTimeoutHoldsBesideAHijackedConnection(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = 200 * time.Millisecond })
		ready(t, pm)
		listening := acquire(t, pm.AcquireMaster).Hijack()
		defer listening.Close(context.Background())
		time.Sleep(20 * time.Second)
		for range 4 {
			defer acquire(t, pm.AcquireMaster).Release()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if took := timed(func() { _, _ = pm.AcquireMaster(ctx) }); took != 200*time.Millisecond {
			t.Errorf("an acquire from a full pool took %v", took)
		}
	})
}

func TestConnectionsThatAreBeingMadeAreNotTakenForHijacked(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.MinConns = 3
			p.AfterConnect = func(context.Context, *pgx.Conn) error {
				time.Sleep(200 * time.Millisecond)
				return nil
			}
		}))
		ready(t, pm)
		time.Sleep(5 * time.Second)
		c.Node("pg2").Kill()
		c.Node("pg1").Kill()
		time.Sleep(500 * time.Millisecond)
		c.Node("pg2").Start() // its pool is filled while the hunt for a master probes every 10 ms
		time.Sleep(3 * time.Second)
		c.Node("pg1").Start()
		time.Sleep(20 * time.Second)
		for i, p := range poolsOf(pm) {
			if lent, open := p.InUse(), p.Open(); lent != 0 || open != int(p.Stat().TotalConns()) {
				t.Errorf("node %d: %d lent, %d open of %d", i, lent, open, p.Stat().TotalConns())
			}
		}
	})
}

func TestConnectionsThatEndInAfterConnectAreMadeLessAndLess(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var dials atomic.Int64
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
				dials.Add(1)
				time.Sleep(time.Millisecond)
				_ = conn.Close(ctx)
				return errors.New("a hook that gave up")
			}
		}))
		ready(t, pm)
		_, err := pm.AcquireMaster(t.Context())
		if n := dials.Load(); n > 50 { // in 30 s: after 5, 10, 20 ms and so on up to a second
			t.Errorf("%d dials", n)
		}
		if err == nil || !strings.Contains(err.Error(), "a hook that gave up") {
			t.Errorf("%v does not say why", err)
		}
	})
}

func TestConnectionWhosePingWasNotSentIsPingedByTheNext(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		ctx, cancel := context.WithCancel(t.Context())
		var armed atomic.Bool
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.MaxConns = 1
			p.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool {
				if armed.Swap(false) {
					cancel() // too late for pgxpool, which lends the connection
					return true
				}
				return false
			}
		}))
		ready(t, pm)
		acquire(t, pm.AcquireMaster).Release()
		armed.Store(true)
		if conn, err := pm.AcquireMaster(ctx); err == nil {
			conn.Release()
			t.Fatal("lent to a caller who is gone")
		}
		pids := c.Node("pg1").PIDs()
		c.Node("pg1").Terminate(pids[len(pids)-1]) // the monitor's is the first
		time.Sleep(2 * time.Second)                // nobody remembers the loss
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		if got := nodeOf(t, conn); got != "pg1" {
			t.Errorf("served by %s", got)
		}
	})
}

func TestWaiterThatHasJustPickedWhenItIsClosedIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		picker := &heldPicker{name: "pg2:5432", chosen: make(chan struct{}), proceed: make(chan struct{})}
		pm := open(t, c, func(config *Config) { config.Picker = picker })
		ready(t, pm)
		for range 4 { // the pool of pg2 is full
			defer acquire(t, pm.AcquireReplica).Release()
		}
		picker.picks.Store(2)
		ended := make(chan error)
		go func() {
			_, err := pm.AcquireReplica(t.Context())
			ended <- err
		}()
		<-picker.chosen
		go func() { _ = pm.Close(t.Context()) }()
		synctest.Wait()
		close(picker.proceed)
		if took := timed(func() {
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestConnectionsOfTheUsersOwnOutliveAStall(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		held := acquire(t, pm.AcquireMaster)
		defer held.Release()
		config := held.Conn().Config()
		before, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer before.Close(t.Context())
		low, err := pgconn.ConnectConfig(t.Context(), &config.Config)
		if err != nil {
			t.Fatal(err)
		}
		defer low.Close(t.Context())

		c.Node("pg1").Freeze()
		time.Sleep(DefaultCheckInterval*11/10 + DefaultCheckTimeout)
		if s := status(pm, "pg1"); s != StatusSuspect {
			t.Fatalf("pg1 is %s", s)
		}
		at(500*time.Millisecond, c.Node("pg1").Thaw)
		during, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal("connecting: ", err)
		}
		defer during.Close(t.Context())
		for name, ping := range map[string]func(context.Context) error{
			"made before": before.Ping, "made before by pgconn": low.Ping, "made meanwhile": during.Ping,
		} {
			if err := ping(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestReadsGoOnWhileASpareConnectionIsDialled(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		conns := func() int32 {
			return poolsOf(pm)[1].Stat().TotalConns() + poolsOf(pm)[2].Stat().TotalConns()
		}
		first, second := acquire(t, pm.AcquireReplica), acquire(t, pm.AcquireReplica) // of the least loaded each
		first.Release()
		second.Release()
		if n := conns(); n != 2 {
			t.Fatalf("%d connections to two replicas", n)
		}
		c.Node("pg2").DialTime(time.Second)
		c.Node("pg3").DialTime(time.Second)
		c.Node("pg1").Kill()
		for range 900 {
			time.Sleep(time.Millisecond)
			if took := timed(func() { acquire(t, pm.AcquireReplica).Release() }); took != 0 {
				t.Fatalf("a read waited for %v", took)
			}
		}
		if n := conns(); n != 4 {
			t.Errorf("%d connections, with those that are being opened", n)
		}
	})
}

func TestPoolOfAReturningNodeIsFilledWhateverElseItHasToDo(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MinConns, p.MaxConns = 20, 20 }))
		ready(t, pm)
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		c.Node("pg1").DialTime(150 * time.Millisecond)
		c.Node("pg1").Start()
		conns, _ := many(t, pm, 3, time.Minute)
		release(conns)
		if err := pm.Ready(t.Context(), 1, 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(450 * time.Millisecond)
		if n := poolsOf(pm)[0].Stat().IdleConns(); n != 20 {
			t.Errorf("%d connections", n)
		}
	})
}

// pgxpool dials again within one Acquire if PrepareConn refuses what was dialled.
func TestHookThatRefusesASpareConnectionHarmsNobody(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var refuse atomic.Bool
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) {
				return !refuse.Load(), nil
			}
		}))
		ready(t, pm)
		refuse.Store(true)
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		refuse.Store(false)
		acquire(t, pm.AcquireReplica).Release()
	})
}

// Its context carries what this pool notes for its own dials.
func TestHookMayUseAnotherPoolManager(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		vault := pgfake.New("pg4")
		t.Cleanup(vault.Close)
		handleProbe(vault, answerProbe)
		tokens := open(t, vault)
		if err := tokens.Ready(t.Context(), 1, 0); err != nil {
			t.Fatal(err)
		}
		pm := open(t, c, everyPool(func(p *pgxpool.Config) {
			p.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
				conn, err := tokens.AcquireMaster(ctx)
				if err == nil {
					conn.Release()
				}
				return err
			}
		}))
		ready(t, pm)
		vault.Node("pg4").TerminateAll()
		time.Sleep(5 * time.Second)
		c.Node("pg1").Kill()
		time.Sleep(time.Second)
		acquire(t, pm.AcquireReplica).Release()
	})
}
