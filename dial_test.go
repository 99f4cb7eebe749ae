package hasql

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgfake"
)

// many acquires connections to the master at once, and returns them with what the last one took.
func many(t *testing.T, pm *PoolManager, n int, budget time.Duration) (conns []*pgxpool.Conn, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), budget)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	took = timed(func() {
		for range n {
			all.Go(func() {
				conn, err := pm.AcquireMaster(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				conns = append(conns, conn)
			})
		}
		all.Wait()
	})
	return conns, took
}

func release(conns []*pgxpool.Conn) {
	for _, conn := range conns {
		conn.Release()
	}
}

func TestPoolOfAHealthyNodeIsFilledAtOnce(t *testing.T) {
	for _, test := range []struct {
		dial  time.Duration
		dials time.Duration // one after the other: 1 if all were made at once
	}{
		{time.Millisecond, 2},       // 2, 48
		{150 * time.Millisecond, 3}, // 2, 14, 34
		{700 * time.Millisecond, 5}, // 2, 4, 8, 16, 20
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MaxConns = 50 }))
			ready(t, pm)
			c.Node("pg1").DialTime(test.dial)
			conns, took := many(t, pm, 50, time.Minute)
			release(conns)
			if took != test.dials*test.dial {
				t.Errorf("50 connections that take %v each: after %v, not %v", test.dial, took, test.dials*test.dial)
			}
		})
	}
}

func TestNodeThatIsBackIsDialledTwiceAtATimeAtFirst(t *testing.T) {
	for name, leave := range map[string]func(n *pgfake.Node){
		"restarted":                    func(n *pgfake.Node) { n.Kill(); at(time.Second, n.Start) },
		"restarted between two probes": func(n *pgfake.Node) { n.Kill(); n.Start() },
		"thawed":                       func(n *pgfake.Node) { n.Freeze(); at(2*time.Second, n.Thaw) },
		"refused a login": func(n *pgfake.Node) {
			n.RefuseLogin("53300", "sorry, too many clients already")
			at(time.Second, n.AcceptLogin)
		},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			tracer := &userTracer{}
			pm := open(t, c, everyPool(func(p *pgxpool.Config) {
				p.MaxConns = 30
				p.ConnConfig.Tracer = tracer
			}))
			ready(t, pm)
			c.Node("pg1").DialTime(time.Millisecond)
			held, _ := many(t, pm, 10, time.Minute)
			defer release(held)
			if tracer.most < 8 {
				t.Errorf("%s: %d dials at once to a healthy node", name, tracer.most)
			}
			leave(c.Node("pg1"))
			if name == "refused a login" {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if _, err := pm.AcquireMaster(ctx); err == nil {
					t.Error("a connection meanwhile")
				}
			}
			time.Sleep(3 * time.Second)
			c.Node("pg1").DialTime(100 * time.Millisecond)
			var all sync.WaitGroup
			defer all.Wait()
			all.Go(func() {
				conns, _ := many(t, pm, 10, time.Minute)
				release(conns)
			})
			time.Sleep(50 * time.Millisecond)
			tracer.mu.Lock()
			defer tracer.mu.Unlock()
			if tracer.now != firstDials {
				t.Errorf("%s: %d dials at once when it is back", name, tracer.now)
			}
		})
	}
}

func TestDialsThatFailTogetherAreOneFailure(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, everyPool(func(p *pgxpool.Config) { p.MaxConns = 30 }))
		ready(t, pm)
		held, _ := many(t, pm, 10, time.Minute)
		defer release(held)
		c.Node("pg1").DialTime(10 * time.Millisecond)
		c.Node("pg1").RefuseLogin("53300", "sorry, too many clients already")
		at(15*time.Millisecond, c.Node("pg1").AcceptLogin)
		conns, took := many(t, pm, 20, time.Minute)
		release(conns)
		if took > 60*time.Millisecond { // three dials one after the other, and short pauses between
			t.Errorf("connected after %v", took)
		}
	})
}

// saturated is a server that many clients connect to: what it can do in a millisecond is shared among them all, also those
// that have given up.
type saturated struct {
	mu     sync.Mutex
	logins map[*login]struct{}
	dials  int
	most   int
}

type login struct {
	left time.Duration
	done chan struct{}
}

func (s *saturated) run(ctx context.Context, cores int) {
	const turn = 5 * time.Millisecond
	for ctx.Err() == nil {
		time.Sleep(turn)
		s.mu.Lock()
		share := min(turn, turn*time.Duration(cores)/time.Duration(max(len(s.logins), 1)))
		for l := range s.logins {
			if l.left -= share; l.left <= 0 {
				close(l.done)
				delete(s.logins, l)
			}
		}
		s.mu.Unlock()
	}
}

func (s *saturated) login(work, timeout time.Duration) error {
	l := &login{work, make(chan struct{})}
	s.mu.Lock()
	s.logins[l] = struct{}{}
	s.dials++
	s.most = max(s.most, len(s.logins))
	s.mu.Unlock()
	select {
	case <-l.done:
		return nil
	case <-time.After(timeout):
		return errors.New("too slow")
	}
}

func TestThousandClientsThatStartAtOnceDialNoneInVain(t *testing.T) {
	const clients, conns = 1000, 10
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		server := &saturated{logins: make(map[*login]struct{})}
		go server.run(ctx, 4)
		var all sync.WaitGroup
		took := timed(func() {
			for range clients {
				n := &nodePool{dials: newDialGate(conns, defaultConnectTimeout)}
				for range conns {
					all.Go(func() {
						for connected := false; !connected; {
							attempt := &dialTracer{pool: n}
							if n.enterDial(ctx, attempt) != nil {
								time.Sleep(maxDialBackoff)
								continue
							}
							err := server.login(3*time.Millisecond, defaultConnectTimeout)
							attempt.left(err)
							connected = err == nil
						}
					})
				}
			}
			all.Wait()
		})
		stop()
		time.Sleep(time.Second)
		t.Logf("%d dials, %d at once, %v", server.dials, server.most, took)
		if server.dials != clients*conns {
			t.Errorf("%d dials for %d connections", server.dials, clients*conns)
		}
		if ideal := clients * conns * 3 * time.Millisecond / 4; took > ideal*11/10 {
			t.Errorf("it took %v, and the server would need %v", took, ideal)
		}
	})
}
