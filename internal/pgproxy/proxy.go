package pgproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/rs/zerolog"
)

// ErrClosed is what the methods of a proxy return after its Close.
var ErrClosed = errors.New("pgproxy: the proxy is closed")

// Proxy forwards connections from its own address to one server. Faults add up until [Proxy.Heal] removes them all;
// asking twice for the same one is no error. The methods may be called from several goroutines; each returns when what
// it says is so.
type Proxy struct {
	upstream string
	port     *port
	links    *toxiproxy.Proxy     // never started: what carries the bytes of all pairs
	server   *toxiproxy.ApiServer // never serves: the links ask it for metrics, and it has none
	dials    context.Context      // ended by Close
	endDials context.CancelFunc
	running  sync.WaitGroup // the accept loop, one per client until it is linked, two per linked pair

	shaping sync.Mutex // serialises Latency; taken before mu, and held while toxiproxy rearranges its links
	delayed bool

	mu       sync.Mutex
	listener net.Listener // nil while new clients are refused
	cut      [stream.NumDirections]bool
	pairs    map[*pair]struct{}
	closed   bool
}

// Listen starts a proxy for the server at upstream, host:port, on a free port of 127.0.0.1, which stays its own until
// [Proxy.Close]. Nothing is dialed before a client comes; if the server cannot be dialed then, the client is reset.
func Listen(upstream string) (*Proxy, error) {
	port, err := reservePort()
	if err != nil {
		return nil, err
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{
		upstream: upstream,
		port:     port,
		links:    toxiproxy.NewProxy(server, "pgproxy", "", upstream),
		server:   server,
		pairs:    make(map[*pair]struct{}),
	}
	p.dials, p.endDials = context.WithCancel(context.Background())
	if err := p.listenLocked(); err != nil { // nobody else knows it yet
		port.release()
		return nil, err
	}
	return p, nil
}

// Addr returns the address for clients, 127.0.0.1:port.
func (p *Proxy) Addr() string { return "127.0.0.1:" + strconv.Itoa(p.port.number) }

// Cut makes the bytes of both directions vanish while all sockets stay open: even the end of a connection, in order or
// not, does not get through. New clients are accepted and meet silence. [Proxy.Heal] resets all of these connections,
// for what was lost would make nonsense of the rest.
func (p *Proxy) Cut() error { return p.cutOff(stream.Upstream, stream.Downstream) }

// CutToServer is [Proxy.Cut] for what clients send; what the server sends still arrives. New clients meet silence:
// TCP's handshake needs both directions.
func (p *Proxy) CutToServer() error { return p.cutOff(stream.Upstream) }

// CutToClient is [Proxy.Cut] for what the server sends; what clients send still arrives. New clients meet silence.
func (p *Proxy) CutToClient() error { return p.cutOff(stream.Downstream) }

func (p *Proxy) cutOff(directions ...stream.Direction) error {
	return p.locked(func() error {
		for _, direction := range directions {
			p.cut[direction] = true
			for pair := range p.pairs {
				pair.cut(direction)
			}
		}
		return nil
	})
}

// Reset ends all present connections by a TCP reset, at both ends. New ones are as welcome as before.
func (p *Proxy) Reset() error {
	return p.locked(func() error {
		p.resetLocked(func(*pair) bool { return true })
		return nil
	})
}

// Refuse resets all present connections as [Proxy.Reset] does, and has the kernel refuse new ones, as on a machine
// where no server runs.
func (p *Proxy) Refuse() error {
	return p.locked(func() error {
		err := p.refuseLocked()
		p.resetLocked(func(*pair) bool { return true })
		return err
	})
}

// Latency makes what the server sends arrive d later, on present and new connections, so that a round trip takes d
// longer; throughput is not limited. It is rounded up to whole milliseconds and replaces an earlier one; 0 ends it. The
// handshake with a client is not delayed.
//
// Latency, and Heal after it, wait for a client whose buffers are full and who does not read. After 5 s toxiproxy drops
// what that client should have got; [Proxy.Reset] it instead.
func (p *Proxy) Latency(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("pgproxy: a latency of %v", d)
	}
	p.shaping.Lock()
	defer p.shaping.Unlock()
	if err := p.locked(func() error { return nil }); err != nil {
		return err
	}
	return p.delayShaping(d)
}

// delayShaping sets the delay of all links; p.shaping is held. Setting a new one on a toxic in place would be a data
// race within toxiproxy, so it is removed and added.
func (p *Proxy) delayShaping(d time.Duration) error {
	if p.delayed {
		if err := p.links.Toxics.RemoveToxic(context.Background(), "latency"); err != nil {
			return fmt.Errorf("pgproxy: latency: %w", err)
		}
		p.delayed = false
	}
	if d == 0 {
		return nil
	}
	ms := (d + time.Millisecond - 1) / time.Millisecond
	_, err := p.links.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name":"latency","type":"latency","stream":"downstream","toxicity":1,"attributes":{"latency":%d}}`, ms)))
	if err != nil {
		return fmt.Errorf("pgproxy: latency: %w", err)
	}
	p.delayed = true
	return nil
}

// Heal removes every fault. Connections that lost nothing go on; those that were cut, or began during a cut, are reset.
func (p *Proxy) Heal() error {
	p.shaping.Lock()
	defer p.shaping.Unlock()
	err := p.locked(func() error {
		p.cut = [stream.NumDirections]bool{}
		p.resetLocked(func(c *pair) bool { return c.lost })
		if p.listener == nil {
			return p.listenLocked()
		}
		return nil
	})
	if errors.Is(err, ErrClosed) {
		return err
	}
	return errors.Join(err, p.delayShaping(0))
}

// Close resets all connections, stops listening and waits until all of the proxy's goroutines have ended or are about
// to return. Only the first call does anything.
func (p *Proxy) Close() error {
	err := p.locked(func() error {
		p.closed = true
		p.endDials()
		err := p.refuseLocked()
		p.resetLocked(func(*pair) bool { return true })
		return err
	})
	if errors.Is(err, ErrClosed) {
		return nil
	}
	p.shaping.Lock() // connections that are reset hold nobody up who has it
	defer p.shaping.Unlock()
	err = errors.Join(err, p.delayShaping(0))
	p.running.Wait()
	p.port.release()
	return err
}

// locked runs f under p.mu unless the proxy is closed.
func (p *Proxy) locked(f func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	return f()
}

// resetLocked resets those connections for which which holds.
func (p *Proxy) resetLocked(which func(*pair) bool) {
	for pair := range p.pairs {
		if which(pair) {
			pair.reset()
			if !pair.linked {
				delete(p.pairs, pair)
			}
		}
	}
}

func (p *Proxy) listenLocked() error {
	listener, err := net.Listen("tcp", p.Addr())
	if err != nil {
		return fmt.Errorf("pgproxy: %w", err)
	}
	p.listener = listener
	p.running.Go(func() { p.accept(listener) })
	return nil
}

func (p *Proxy) refuseLocked() error {
	if p.listener == nil {
		return nil
	}
	err := p.listener.Close()
	p.listener = nil
	return err
}
