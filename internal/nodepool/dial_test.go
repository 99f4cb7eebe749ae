package nodepool

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/testenv"
)

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
	testenv.Bubble(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		server := &saturated{logins: make(map[*login]struct{})}
		go server.run(ctx, 4)
		var all sync.WaitGroup
		began := time.Now()
		func() {
			for range clients {
				p := &Pool{dials: newDialGate(conns, DefaultConnectTimeout)}
				for range conns {
					all.Go(func() {
						for connected := false; !connected; {
							attempt := &DialAttempt{pool: p}
							if p.enterDial(ctx, attempt) != nil {
								time.Sleep(MaxDialBackoff)
								continue
							}
							err := server.login(3*time.Millisecond, DefaultConnectTimeout)
							attempt.endDial(err)
							connected = err == nil
						}
					})
				}
			}
			all.Wait()
		}()
		took := time.Since(began)
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
