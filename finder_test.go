package hasql

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pghasql/hasql/discovery"
	"github.com/pghasql/hasql/internal/pgfake"
)

// oracle is a Discoverer that answers as the test wants.
type oracle struct {
	mu     sync.Mutex
	answer func(ctx context.Context) ([]Endpoint, error)
	asked  []time.Time
}

func (o *oracle) Discover(ctx context.Context) ([]Endpoint, error) {
	o.mu.Lock()
	answer := o.answer
	o.asked = append(o.asked, time.Now())
	o.mu.Unlock()
	return answer(ctx)
}

func (o *oracle) says(answer func(ctx context.Context) ([]Endpoint, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = answer
}

func (o *oracle) finds(hosts ...string) {
	o.says(func(context.Context) ([]Endpoint, error) { return endpoints(hosts...), nil })
}

// since returns when it was asked after t, as times since t.
func (o *oracle) since(t time.Time) (list []time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, at := range o.asked {
		if at.After(t) {
			list = append(list, at.Sub(t))
		}
	}
	return list
}

func endpoints(hosts ...string) (list []Endpoint) {
	for _, host := range hosts {
		list = append(list, Endpoint{Host: host})
	}
	return list
}

// discovering opens a PoolManager that knows the first nodes from its DSN and asks o every 10 s.
func discovering(t *testing.T, c *pgfake.Cluster, o Discoverer, known int, edit ...func(*Config)) *PoolManager {
	t.Helper()
	return open(t, c, append([]func(*Config){func(config *Config) {
		config.Nodes, config.Discoverer, config.DiscoveryInterval = config.Nodes[:known], o, 10*time.Second
	}}, edit...)...)
}

func TestFoundNodeTakesReadsWithinTwoSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		o.finds("pg1", "pg2")
		pm := discovering(t, c, o, 2)
		if err := pm.Ready(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		var listed time.Time
		o.says(func(context.Context) ([]Endpoint, error) {
			if listed.IsZero() {
				listed = time.Now()
			}
			return endpoints("pg1", "pg2", "pg3"), nil
		})
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			conn := acquire(t, pm.AcquireReplica)
			got := nodeOf(t, conn)
			conn.Release()
			if got == "pg3" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it takes no reads")
			}
		}
		if took := time.Since(listed); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAnswersThatAreNoneChangeNothing(t *testing.T) {
	for name, answer := range map[string]func(context.Context) ([]Endpoint, error){
		"an error": func(context.Context) ([]Endpoint, error) { return endpoints("pg1"), errors.New("no answer") },
		"nothing":  func(context.Context) ([]Endpoint, error) { return nil, nil },
		"one name twice": func(context.Context) ([]Endpoint, error) {
			return []Endpoint{{Name: "x", Host: "pg1"}, {Name: "x", Host: "pg2"}}, nil
		},
		"an impossible one": func(context.Context) ([]Endpoint, error) { return endpoints("pg1", "postgres://app:secret@pg2"), nil },
		"a panic":           func(context.Context) ([]Endpoint, error) { panic("at the discoverer's") },
		"none in time":      func(ctx context.Context) ([]Endpoint, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				o := new(oracle)
				o.finds("pg1", "pg2", "pg3")
				core, logs := observer.New(zap.WarnLevel)
				var hooked []error
				pm := discovering(t, c, o, 3, func(config *Config) {
					config.Logger = zap.New(core)
					config.Hooks.DiscoveryChanged = func(err error) { hooked = append(hooked, err) }
				})
				ready(t, pm)
				was := nodesOf(pm)
				o.says(answer)
				time.Sleep(5 * time.Minute)
				if !slices.Equal(nodesOf(pm), was) || states(pm.Snapshot()) != "pg1 up, pg2 up, pg3 up" {
					t.Errorf("the nodes are %s", states(pm.Snapshot()))
				}
				warned := logs.FilterMessageSnippet("discovery failed").Len()
				stat := pm.Stat().Discovery()
				if warned != 1 || len(hooked) != 1 || hooked[0] == nil || !stat.Failing() || stat.LastError.Error() != hooked[0].Error() {
					t.Errorf("%d warnings, hooks %v, %+v", warned, hooked, stat)
				}
				if text := fmt.Sprint(stat.LastError); strings.Contains(text, "secret") {
					t.Error(text)
				}
				if age := time.Since(stat.LastFailure); age > time.Minute {
					t.Errorf("the last failure is %v old", age)
				}
				o.finds("pg1", "pg2", "pg3")
				time.Sleep(time.Minute)
				if stat := pm.Stat().Discovery(); len(hooked) != 2 || hooked[1] != nil || stat.Failing() || stat.LastError == nil {
					t.Errorf("hooks %v, %+v", hooked, stat)
				}
			})
		})
	}
}

func TestFlappingDiscoveryFailsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		lists := [][]string{{"pg1", "pg2", "pg3"}, {"pg1", "pg2"}, {"pg3", "pg2"}, {"pg3"}}
		var turn atomic.Int64
		o.says(func(context.Context) ([]Endpoint, error) {
			return endpoints(lists[int(turn.Add(1))%len(lists)]...), nil
		})
		pm := discovering(t, c, o, 3, func(config *Config) {
			config.DiscoveryInterval, config.AcquireTimeout = time.Second, time.Second
		})
		if err := pm.Ready(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); time.Since(began) < 2*time.Minute; time.Sleep(50 * time.Millisecond) {
			if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
				t.Fatal(err)
			}
			if _, err := pm.Replica().Exec(t.Context(), "read"); err != nil {
				t.Fatal(err)
			}
		}
		if n := turn.Load(); n < 60 {
			t.Errorf("asked %d times", n)
		}
		o.finds("pg1", "pg2", "pg3")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := states(pm.Snapshot()); got != "pg1 up, pg2 up, pg3 up" {
			t.Error(got)
		}
		for _, n := range c.Nodes() {
			if n.Conns() > 5 { // 4 in the pool, and the monitor's
				t.Errorf("%s has %d sessions", n.Name(), n.Conns())
			}
		}
	})
}

func TestSlowDiscoveryKeepsNobodyWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		o.says(func(ctx context.Context) ([]Endpoint, error) {
			time.Sleep(20 * time.Second)
			return endpoints("pg1", "pg2", "pg3"), nil
		})
		began := time.Now()
		pm := discovering(t, c, o, 2)
		if err := pm.Ready(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("ready after %v", took)
		}
		if err := pm.Ready(t.Context(), 1, 2); err != nil { // more than there are nodes yet
			t.Fatal(err)
		}
		if took := time.Since(began); took < 20*time.Second || took > 21*time.Second {
			t.Errorf("the third node is ready after %v", took)
		}
	})
}

func TestMissingMasterIsAskedForAtOnceAndThenLessAndLess(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		o.finds("pg1", "pg2", "pg3")
		pm := discovering(t, c, o, 3, func(config *Config) { config.DiscoveryInterval = time.Hour })
		ready(t, pm)
		began := time.Now()
		time.Sleep(10 * time.Minute)
		if asked := o.since(began); len(asked) != 0 {
			t.Errorf("all is well and it was asked after %v", asked)
		}
		c.Node("pg1").Kill()
		lost := time.Now()
		time.Sleep(10 * time.Minute)
		asked := o.since(lost)
		if len(asked) < 5 || len(asked) > 12 || asked[0] > discoverySpread+DefaultRecoveryInterval || asked[1]-asked[0] < discoveryPause {
			t.Errorf("asked %v after the loss", asked)
		}
		c.Node("pg2").Promote()
		c.Node("pg1").Follow()
		c.Node("pg1").Start()
		if err := pm.Ready(t.Context(), 1, 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		began = time.Now()
		time.Sleep(10 * time.Minute)
		if asked := o.since(began); len(asked) != 0 {
			t.Errorf("all is well again and it was asked after %v", asked)
		}
		c.Node("pg3").Kill()
		lost = time.Now()
		time.Sleep(discoveryPause)
		if asked := o.since(lost); len(asked) != 1 {
			t.Errorf("asked %v after the loss of a replica", asked)
		}
	})
}

// TestNodesThatFlapAreAskedForOnceASecond is for the sake of whom they ask.
func TestNodesThatFlapAreAskedForOnceASecond(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		o.finds("pg1", "pg2", "pg3")
		pm := discovering(t, c, o, 3)
		ready(t, pm)
		began := time.Now()
		for range 600 {
			c.Node("pg3").Kill()
			time.Sleep(50 * time.Millisecond)
			c.Node("pg3").Start()
			time.Sleep(50 * time.Millisecond)
		}
		if asked := o.since(began); len(asked) > 61 || len(asked) < 10 {
			t.Errorf("asked %d times in a minute", len(asked))
		}
	})
}

func TestCloseEndsAQuestionThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		o.says(func(ctx context.Context) ([]Endpoint, error) { <-ctx.Done(); return nil, ctx.Err() })
		pm := discovering(t, c, o, 3)
		ready(t, pm)
		began := time.Now()
		if err := pm.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second || pm.Stat().Discovery().Failing() {
			t.Errorf("it took %v, %+v", took, pm.Stat().Discovery())
		}
	})
}

func TestCloseTellsOfADiscovererThatNeverReturns(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o, end := new(oracle), make(chan struct{})
		o.says(func(context.Context) ([]Endpoint, error) { <-end; return endpoints("pg1"), nil })
		pm := discovering(t, c, o, 3)
		ready(t, pm)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := pm.Close(ctx); err == nil || !strings.Contains(err.Error(), "a Discoverer") {
			t.Error(err)
		}
		close(end)
	})
}

// TestOneNameManyAddresses is what DNS finds: the name is that of the DSN, which is no node by itself.
func TestOneNameManyAddresses(t *testing.T) {
	addrs := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}
	bubbleOf(t, addrs, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		shared := func(addrs ...string) {
			var list []Endpoint
			for _, addr := range addrs {
				list = append(list, Endpoint{Host: "pg.svc", Addr: netip.MustParseAddr(addr)})
			}
			o.says(func(context.Context) ([]Endpoint, error) { return list, nil })
		}
		shared(addrs[:3]...)
		pm := discovering(t, c, o, 1)
		began := time.Now()
		for {
			all := slices.Collect(pm.Snapshot().Nodes())
			if len(all) == 3 && pm.Snapshot().complete() {
				break
			}
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("%v", all)
			}
			time.Sleep(time.Second)
		}
		if got := states(pm.Snapshot()); got != "pg.svc up, pg.svc up, pg.svc up" {
			t.Error(got)
		}
		for n := range pm.Snapshot().members() {
			if host := n.config.Pool.ConnConfig.Host; host != "pg.svc" {
				t.Errorf("TLS and .pgpass would look for %s", host)
			}
		}
		shared("10.0.0.1", "10.0.0.2", "10.0.0.4") // a node was replaced: its name is the same
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if got := c.Node("10.0.0.3").Conns(); got != 0 {
			t.Errorf("%d sessions of the one that left", got)
		}
		if got := c.Node("10.0.0.4").Conns(); got == 0 {
			t.Error("no session of the one that came")
		}
	})
}

func TestNodeWhoseAddressChangesIsAnother(t *testing.T) {
	bubbleOf(t, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		at := func(a, b string) {
			o.says(func(context.Context) ([]Endpoint, error) {
				return []Endpoint{
					{Name: "a", Host: "a.svc", Addr: netip.MustParseAddr(a)},
					{Name: "b", Host: "b.svc", Addr: netip.MustParseAddr(b)},
				}, nil
			})
		}
		at("10.0.0.1", "10.0.0.2")
		pm := discovering(t, c, o, 1)
		time.Sleep(time.Minute)
		was := nodesOf(pm)
		if len(was) != 2 {
			t.Fatal(states(pm.Snapshot()))
		}
		lent := acquire(t, pm.AcquireReplica)
		at("10.0.0.1", "10.0.0.3")
		time.Sleep(time.Minute)
		if got := nodeOf(t, lent); got != "10.0.0.2" {
			t.Errorf("what is lent leads to %s", got)
		}
		lent.Release()
		conn := acquire(t, pm.AcquireReplica)
		if got := nodeOf(t, conn); got != "10.0.0.3" {
			t.Errorf("a read went to %s", got)
		}
		conn.Release()
		time.Sleep(2 * DefaultCheckInterval)
		if now := nodesOf(pm); len(now) != 2 || now[0] != was[0] || now[1] == was[1] {
			t.Error("the wrong one is another")
		}
	})
}

// TestNodesUnderOtherNames is Patroni's way: the DSN has names, discovery the same servers by their addresses.
func TestNodesUnderOtherNames(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		names := map[string]string{"10.0.0.1:5432": "pg1:5432", "10.0.0.2:5432": "pg2:5432", "10.0.0.3:5432": "pg3:5432"}
		o := new(oracle)
		o.finds("pg1", "pg2", "pg3")
		pm := discovering(t, c, o, 3, func(config *Config) {
			for _, n := range config.Nodes {
				n.Pool.ConnConfig.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
				n.Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if name, ok := names[addr]; ok {
						addr = name
					}
					return c.Dial(ctx, network, addr)
				}
			}
		})
		ready(t, pm)
		o.says(func(context.Context) ([]Endpoint, error) {
			return []Endpoint{{Name: "a", Host: "10.0.0.1"}, {Name: "b", Host: "10.0.0.2"}, {Name: "c", Host: "10.0.0.3"}}, nil
		})
		for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := pm.Master().Exec(short, "write x"); err != nil {
				t.Fatal(err)
			}
			if _, err := pm.Replica().Exec(short, "read"); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		if got := states(pm.Snapshot()); got != "a up, b up, c up" {
			t.Error(got)
		}
	})
}

func TestLabelsOfKnownNodesAreTakenOver(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		o.finds("pg1", "pg2", "pg3")
		pm := discovering(t, c, o, 3)
		ready(t, pm)
		was := nodesOf(pm)
		o.says(func(context.Context) ([]Endpoint, error) {
			return []Endpoint{{Host: "pg1"}, {Name: "second", Host: "pg2", Zone: "b", Tags: map[string]string{"noloadbalance": "true"}}, {Host: "pg3"}}, nil
		})
		time.Sleep(time.Minute)
		if !slices.Equal(nodesOf(pm), was) {
			t.Error("the nodes are others")
		}
		n, known := pm.Snapshot().Node("second")
		if !known || n.Zone != "b" || n.Tags["noloadbalance"] != "true" || n.Role != RoleReplica {
			t.Errorf("%+v", n)
		}
		for range 50 {
			conn := acquire(t, pm.AcquireReplica)
			if got := nodeOf(t, conn); got != "pg3" {
				t.Fatalf("a read went to %s", got)
			}
			conn.Release()
		}
		if err := pm.Ban("second", BanOptions{}); err != nil {
			t.Error(err)
		}
		if err := pm.Unban("second"); err != nil {
			t.Error(err)
		}
		c.Node("pg3").Kill()
		time.Sleep(100 * time.Millisecond)
		at(20*time.Second, func() { o.finds("pg1", "pg2", "pg3") })
		began := time.Now() // for as long as the only other replica takes no reads
		conn := acquire(t, pm.AcquireReplica)
		conn.Release()
		if took := time.Since(began); took < 15*time.Second {
			t.Errorf("a read was served after %v", took)
		}
	})
}

func TestListOfAnotherClusterMovesNobodyThere(t *testing.T) {
	bubbleOf(t, []string{"pg1", "pg2", "pg3", "x1", "x2", "x3", "x4"}, func(t *testing.T, c *pgfake.Cluster) {
		for _, name := range []string{"x1", "x2", "x3", "x4"} {
			c.Node(name).SetSystemID(4711)
		}
		c.Node("x1").SetInRecovery(false)
		o := new(oracle)
		o.finds("pg1", "pg2", "pg3")
		pm := discovering(t, c, o, 3)
		ready(t, pm)
		o.finds("x1", "x2", "x3", "x4")
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(100 * time.Millisecond) {
			conn := acquire(t, pm.AcquireMaster)
			if got := nodeOf(t, conn); got != "pg1" {
				t.Fatalf("a write went to %s", got)
			}
			conn.Release()
		}
		if got := states(pm.Snapshot()); got != "x1 foreign, x2 foreign, x3 foreign, x4 foreign, pg1 up" {
			t.Error(got)
		}
		c.Node("pg1").Kill()
		time.Sleep(100 * time.Millisecond)
		short, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if conn, err := pm.AcquireMaster(short); err == nil {
			t.Errorf("a write went to %s", nodeOf(t, conn))
			conn.Release()
		}
		c.Node("pg1").Start()
		o.finds("pg1", "pg2", "pg3")
		if err := pm.Ready(t.Context(), 1, 2); err != nil {
			t.Fatal(err)
		}
	})
}

type watcher struct {
	oracle
	lists chan []string
}

func (w *watcher) Watch(ctx context.Context) iter.Seq2[[]Endpoint, error] {
	return func(yield func([]Endpoint, error) bool) {
		for {
			select {
			case hosts, more := <-w.lists:
				if !more {
					panic("at the watcher's")
				}
				if !yield(endpoints(hosts...), nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func TestWatcherIsHeard(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		w := &watcher{lists: make(chan []string)}
		w.says(func(context.Context) ([]Endpoint, error) { return nil, errors.New("not now") })
		pm := discovering(t, c, w, 1, func(config *Config) { config.DiscoveryInterval = time.Hour })
		if err := pm.Ready(t.Context(), 1, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		w.lists <- []string{"pg1", "pg2", "pg3"}
		if err := pm.Ready(t.Context(), 1, 2); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > DefaultRecoveryInterval {
			t.Errorf("after %v", took)
		}
		close(w.lists)
		synctest.Wait()
		if err := pm.Stat().Discovery().LastError; err == nil || !strings.Contains(err.Error(), "panicked") {
			t.Error(err)
		}
	})
}

func TestErrorTellsThatNoNodeWasFound(t *testing.T) {
	resolver := func(takes time.Duration) *net.Resolver {
		return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case <-time.After(takes):
			case <-ctx.Done():
			}
			return nil, errors.New("no server for names")
		}}
	}
	// What package net keeps for the whole process must not belong to a bubble.
	_, _ = resolver(0).LookupHost(t.Context(), "pg1")
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		dns := discovery.DNS("pg1", 5432)
		dns.Resolver = resolver(2 * time.Second)
		pm := discovering(t, c, dns, 1, func(config *Config) { config.AcquireTimeout = time.Second })
		if n := pm.Snapshot().Len(); n != 0 {
			t.Fatalf("%d nodes", n)
		}
		_, err := pm.AcquireMaster(t.Context())
		if err == nil || !strings.Contains(err.Error(), "; no node has been found yet") {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		_, err = pm.AcquireMaster(t.Context())
		if err == nil || !strings.Contains(err.Error(), "; discovery fails: discovery by the addresses of pg1") {
			t.Error(err)
		}
		if c.Node("pg1").Dials() != 0 {
			t.Error("the name was dialled")
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := pm.Ready(short, -1, -1); err == nil {
			t.Error("ready without nodes")
		}
		pool, err := pm.Master().Pool(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		if err := pool.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "no master") {
			t.Errorf("a pool that follows a route without nodes: %v", err)
		}
	})
}

// TestNameThatIsAskedForIsNoNode looks at what New begins with.
func TestNameThatIsAskedForIsNoNode(t *testing.T) {
	for dsn, want := range map[string]int{
		"postgres://app@pg.svc/shop?hasql_discovery=dns":                                        0,
		"postgres://app@pg.svc./shop?hasql_discovery=dns":                                       1, // as libpq would dial it
		"postgres://app@example.org/shop?hasql_discovery=srv":                                   0,
		"postgres://app@pg1,pg2/shop?hasql_patroni=http://pg1:8008,https://pg2:8008":            2,
		"host=pg1,pg2 user=app hasql_patroni='http://u:p@pg1:8008' hasql_discovery_interval=5s": 2,
	} {
		config, err := ParseConfig(dsn)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := config.startNodes(); config.Discoverer == nil || len(got) != want {
			t.Errorf("%s: %d nodes, %v", dsn, len(got), config.Discoverer)
		}
	}
}

func TestDiscoveryInADSNThatMakesNoSense(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://pg1,pg2/?hasql_discovery=dns":                          "exactly one host",
		"host=pg1 hostaddr=10.0.0.1 hasql_discovery=srv":                   "exactly one host",
		"host=/tmp hasql_discovery=dns":                                    "neither a name nor an address",
		"postgres://pg1/?hasql_discovery=mdns":                             "neither dns nor srv",
		"postgres://pg1/?hasql_discovery=dns&hasql_patroni=http://pg1":     "one discovery only",
		"postgres://pg1/?hasql_patroni=pg1:8008":                           "URL 1 does not have the form",
		"postgres://pg1/?hasql_patroni=ftp://app:secret@pg1":               "URL 1 does not have the form",
		"postgres://pg1/?hasql_discovery=dns&hasql_discovery_interval=-1s": "DiscoveryInterval must be positive",
		"postgres://pg1/?hasql_discovery_interval=often":                   "not a duration",
	} {
		_, err := ParseConfig(dsn)
		if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	config, err := ParseConfig("postgres://pg1/")
	if err != nil {
		t.Fatal(err)
	}
	byHand := &Config{Nodes: config.Nodes, Discoverer: discovery.Static(Endpoint{Host: "pg1"})}
	if _, err := NewWithConfig(t.Context(), byHand); err == nil || !strings.Contains(err.Error(), "ParseConfig") {
		t.Error(err)
	}
}

// TestCommitIsKnownByItsNodeWhateverTheNodeIsCalled compares with the id under which observations of the node are remembered.
func TestCommitIsKnownByItsNodeWhateverTheNodeIsCalled(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		o := new(oracle)
		o.finds("pg1", "pg2", "pg3")
		pm := discovering(t, c, o, 3)
		ready(t, pm)
		o.says(func(context.Context) ([]Endpoint, error) {
			return []Endpoint{{Name: "pg2:5432", Host: "pg1"}, {Name: "pg1:5432", Host: "pg2"}, {Host: "pg3"}}, nil
		})
		time.Sleep(time.Minute)
		master := pm.Snapshot().master()
		if master.Name != "pg2:5432" {
			t.Fatalf("the master is called %s", master.Name)
		}
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		tx := transaction{route: pm.Master(), commits: pm.Master().commits(), conn: conn}
		tx.locate()
		if got, want := tx.lost.trace.Node, master.node.id(); got != want {
			t.Errorf("the transaction ran on %s, which is known as %s", got, want)
		}
	})
}
