package pgproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// aWhile is how long a test checks that nothing arrives.
const aWhile = 30 * time.Millisecond

// server accepts connections and hands them to the test.
type server struct {
	listener net.Listener
	conns    chan net.Conn
	wg       sync.WaitGroup
}

// newServer starts a server that hands accepted connections to the test, or echoes if echo is set.
func newServer(t *testing.T, echo bool) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &server{listener: listener, conns: make(chan net.Conn, 100)}
	s.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if echo {
				s.wg.Go(func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn) // the error does not matter
				})
			}
			s.conns <- conn
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		for len(s.conns) > 0 {
			(<-s.conns).Close()
		}
		s.wg.Wait()
	})
	return s
}

// newProxy starts a server and a proxy in front of it.
func newProxy(t *testing.T, echo bool) (*Proxy, *server) {
	t.Helper()
	s := newServer(t, echo)
	p, err := Listen(s.listener.Addr().String())
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p, s
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(10*time.Second))) // so that a test that hangs shows where
	return conn.(*net.TCPConn)
}

// connected returns both ends of a connection through the proxy.
func connected(t *testing.T, p *Proxy, s *server) (client, served *net.TCPConn) {
	t.Helper()
	client = dial(t, p)
	served = (<-s.conns).(*net.TCPConn)
	t.Cleanup(func() { served.Close() })
	must(t, served.SetDeadline(time.Now().Add(10*time.Second)))
	pass(t, client, served)
	pass(t, served, client)
	return client, served
}

// pass checks that bytes go from one connection to the other.
func pass(t *testing.T, from, to net.Conn) {
	t.Helper()
	send(t, from, "hello")
	expect(t, to, "hello")
}

func send(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	_, err := conn.Write([]byte(s))
	must(t, err)
}

func expect(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	got := make([]byte, len(s))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != s {
		t.Fatalf("got %q, %v, want %q", got, err, s)
	}
}

// silent checks that nothing arrives, not even the end of the connection.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(aWhile)))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("want silence, got %d bytes, %v", n, err)
	}
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
}

// isReset checks that the connection ends by a reset.
func isReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("want a reset, got %d bytes, %v", n, err)
	}
}

// isEnded checks that the connection ends in order.
func isEnded(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("want an orderly end, got %d bytes, %v", n, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestForwardsInOrder(t *testing.T) {
	p, _ := newProxy(t, true)
	client := dial(t, p)
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := client.Write(want)
		if err == nil {
			err = client.CloseWrite()
		}
		if err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(client)
	must(t, err)
	wg.Wait()
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes became %d or others", len(want), len(got))
	}
}

func TestEndsGetThrough(t *testing.T) {
	p, s := newProxy(t, false)

	client, served := connected(t, p, s)
	must(t, client.Close())
	isEnded(t, served)

	client, served = connected(t, p, s)
	must(t, served.CloseWrite())
	isEnded(t, client)
	pass(t, client, served) // one half is still open

	client, served = connected(t, p, s)
	must(t, served.SetLinger(0))
	must(t, served.Close())
	isReset(t, client)
}

func TestServerLearnsOfAClientThatIsGone(t *testing.T) {
	p, s := newProxy(t, false)
	client, served := connected(t, p, s)
	must(t, client.Close())
	isEnded(t, served)
	chunk := make([]byte, 1<<16)
	for {
		if _, err := served.Write(chunk); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("it never learned")
			}
			return
		}
	}
}

func TestCutIsSilentBothWays(t *testing.T) {
	p, s := newProxy(t, false)
	client, served := connected(t, p, s)
	closed, left := connected(t, p, s)
	must(t, p.Cut())
	must(t, p.Cut())
	send(t, client, "lost")
	send(t, served, "lost")
	silent(t, client)
	silent(t, served)
	must(t, closed.Close())
	silent(t, left) // not even the end gets through
	late := dial(t, p)
	send(t, late, "lost")
	silent(t, late)

	must(t, p.Heal())
	isReset(t, client)
	isReset(t, served)
	isReset(t, left)
	isReset(t, late)
	connected(t, p, s)
	if len(s.conns) != 0 {
		t.Errorf("%d connections came through the cut", len(s.conns))
	}
}

func TestCutOfOneDirection(t *testing.T) {
	p, s := newProxy(t, false)
	client, served := connected(t, p, s)
	must(t, p.CutToServer())
	send(t, client, "lost")
	silent(t, served)
	pass(t, served, client)
	must(t, p.Heal())
	isReset(t, client)

	client, served = connected(t, p, s)
	must(t, p.CutToClient())
	send(t, served, "lost")
	silent(t, client)
	pass(t, client, served)
	must(t, served.Close())
	silent(t, client)
	silent(t, dial(t, p))
	must(t, p.Heal())
	connected(t, p, s)
}

func TestCutDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	p, s := newProxy(t, false)
	client, _ := connected(t, p, s)
	must(t, client.SetWriteDeadline(time.Now().Add(aWhile)))
	if _, err := client.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the buffers took it all: %v", err)
	}
	must(t, p.Cut())
	must(t, p.Heal())
	isReset(t, client)
}

func TestResetSparesNewConnections(t *testing.T) {
	p, s := newProxy(t, false)
	client, served := connected(t, p, s)
	must(t, p.Reset())
	isReset(t, client)
	isReset(t, served)
	connected(t, p, s)
}

func TestRefuseUntilHealed(t *testing.T) {
	p, s := newProxy(t, false)
	client, served := connected(t, p, s)
	must(t, p.Refuse())
	must(t, p.Refuse())
	isReset(t, client)
	isReset(t, served)
	for range 3 {
		if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v", err)
		}
	}
	must(t, p.Heal())
	connected(t, p, s)
}

func TestAServerThatIsNotThereResets(t *testing.T) {
	p, s := newProxy(t, false)
	must(t, s.listener.Close())
	if conn, err := net.Dial("tcp", p.Addr()); err == nil { // the reset may come before Dial returns
		isReset(t, conn)
		conn.Close()
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial: %v", err)
	}
	must(t, p.Cut())
	silent(t, dial(t, p))
}

func TestLatencyDelaysAnswers(t *testing.T) {
	const delay = 60 * time.Millisecond
	p, _ := newProxy(t, true)
	client := dial(t, p)
	pass(t, client, client)
	must(t, p.Latency(time.Hour))
	must(t, p.Latency(delay)) // replaces
	roundTrip := func() time.Duration {
		began := time.Now()
		pass(t, client, client)
		return time.Since(began)
	}
	if took := roundTrip(); took < delay {
		t.Errorf("a round trip took %v", took)
	}
	must(t, p.Latency(0))
	pass(t, client, client)
	must(t, p.Latency(time.Hour))
	send(t, client, "on its way")
	silent(t, client)
	must(t, p.Heal())
	expect(t, client, "on its way") // nothing is lost
	pass(t, client, client)
	if err := p.Latency(-1); err == nil {
		t.Error("a negative latency")
	}
}

func TestFaultsAddUp(t *testing.T) {
	p, s := newProxy(t, false)
	must(t, p.Latency(time.Millisecond))
	must(t, p.Cut())
	must(t, p.Refuse())
	must(t, p.Latency(2*time.Millisecond))
	must(t, p.Reset())
	must(t, p.Heal())
	must(t, p.Heal())
	connected(t, p, s)
}

func TestCloseInAnyStateLeavesNothing(t *testing.T) {
	for name, fault := range map[string]func(*Proxy) error{
		"healthy": func(*Proxy) error { return nil },
		"cut":     (*Proxy).Cut,
		"refused": (*Proxy).Refuse,
		"delayed": func(p *Proxy) error { return p.Latency(time.Hour) },
		"reset":   (*Proxy).Reset,
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			before := goleak.IgnoreCurrent()
			p, err := Listen(s.listener.Addr().String())
			must(t, err)
			client, served := connected(t, p, s)
			// The client does not read, so the streams fill all buffers on the way.
			for _, conn := range []net.Conn{client, served} {
				must(t, conn.SetWriteDeadline(time.Now().Add(aWhile)))
				_, err := conn.Write(make([]byte, 64<<20))
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
			done := make(chan error, 1)
			go func() { done <- fault(p) }()
			ctx, cancel := context.WithTimeout(t.Context(), aWhile)
			defer cancel()
			select {
			case err := <-done:
				must(t, err)
				done <- nil
			case <-ctx.Done():
				if name != "delayed" { // Latency waits for a reader
					t.Error("it blocks")
				}
			}
			must(t, p.Close())
			<-done
			must(t, p.Close())
			for _, use := range []func() error{p.Cut, p.Reset, p.Refuse, p.Heal, func() error { return p.Latency(0) }} {
				if err := use(); !errors.Is(err, ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			}
			if _, err := net.Dial("tcp", p.Addr()); err == nil {
				t.Error("it still listens")
			}
			must(t, goleak.Find(before))
		})
	}
}
