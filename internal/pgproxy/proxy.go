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

// Proxy forwards connections from its own address to one server. Faults add up until [Proxy.Heal] removes them all. To ask
// for the same fault twice is no error. The methods may be called from several goroutines. Each returns when the fault is in
// effect.
type Proxy struct {
	upstream string
	port     *port
	links    *toxiproxy.Proxy     // carries the bytes of all pairs; never started
	server   *toxiproxy.ApiServer // the links ask it for metrics; never serves
	dials    context.Context      // Close ends it
	endDials context.CancelFunc
	running  sync.WaitGroup // counts the accept loop, each client that is not linked yet, and each linked pair twice

	shaping sync.Mutex // serialises Latency; taken before mu, and held while toxiproxy rearranges its links
	delayed bool

	mu       sync.Mutex
	listener net.Listener // nil while new clients are refused
	cut      [stream.NumDirections]bool
	pairs    map[*pair]struct{}
	closed   bool
}

// Listen starts a proxy for the server at upstream, host:port, on a free port of 127.0.0.1. The port stays reserved until
// [Proxy.Close]. The proxy dials the server for each client; if that fails, it resets the client.
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
	if err := p.listenLocked(); err != nil { // no lock is needed yet
		port.release()
		return nil, err
	}
	return p, nil
}

// Addr returns the address for clients, 127.0.0.1:port.
func (p *Proxy) Addr() string { return "127.0.0.1:" + strconv.Itoa(p.port.number) }

// Cut makes the bytes of both directions vanish while all sockets stay open. The end of a connection does not get through
// either. New clients are accepted and get no answer. [Proxy.Heal] resets all of these connections, because they have lost
// bytes.
func (p *Proxy) Cut() error { return p.cutOff(stream.Upstream, stream.Downstream) }

// CutToServer is [Proxy.Cut] for bytes from clients. Bytes from the server still arrive. New clients get no answer, as TCP's
// handshake needs both directions.
func (p *Proxy) CutToServer() error { return p.cutOff(stream.Upstream) }

// CutToClient is [Proxy.Cut] for bytes from the server. Bytes from clients still arrive. New clients get no answer.
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

// Reset ends all existing connections by a TCP reset, at both ends. It does not affect new connections.
func (p *Proxy) Reset() error {
	return p.locked(func() error {
		p.resetLocked(func(*pair) bool { return true })
		return nil
	})
}

// Refuse resets all existing connections as [Proxy.Reset] does, and stops listening, so that the kernel refuses new
// connections, as on a machine where no server runs.
func (p *Proxy) Refuse() error {
	return p.locked(func() error {
		err := p.refuseLocked()
		p.resetLocked(func(*pair) bool { return true })
		return err
	})
}

// Latency delays bytes from the server by d, on existing and new connections, so that a round trip takes d longer. It does
// not limit throughput. d is rounded up to whole milliseconds and replaces an earlier delay; 0 removes the delay. The
// handshake with a client is not delayed.
//
// If a client does not read and its buffers are full, Latency waits for it, and so does Heal after Latency. After 5 s
// toxiproxy drops the bytes for that client. Use [Proxy.Reset] for such a client.
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

// delayShaping sets the delay of all links. p.shaping is held. It removes the toxic and adds a new one, because changing a
// toxic in place is a data race in toxiproxy.
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

// Heal removes every fault. Connections that lost no bytes go on. Connections that were cut, or began during a cut, are
// reset.
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

// Close resets all connections, stops listening, and waits until all of the proxy's goroutines have ended or are about
// to return. Only the first call has an effect.
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
	p.shaping.Lock() // the reset above lets its holder go on
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

// resetLocked resets the connections for which which returns true.
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
