package pgproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
)

// accept accepts clients until the listener is closed.
func (p *Proxy) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // otherwise the client left while it waited
			p.running.Go(func() { p.serve(conn.(*net.TCPConn)) })
		}
	}
}

// serve connects a client to the server and starts the links between them. During a cut it only keeps the client's connection,
// which Heal resets.
func (p *Proxy) serve(client *net.TCPConn) {
	pair := newPair(p, client)
	if !p.admit(pair) {
		return
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(p.dials, "tcp", p.upstream)
	if err != nil {
		p.dialFailed(pair)
		return
	}
	if !p.connect(pair, conn.(*net.TCPConn)) {
		return
	}
	name := fmt.Sprintf("%p", pair)
	p.links.Toxics.StartLink(p.server, name+" up", pair.up, pair.up, stream.Upstream)
	p.links.Toxics.StartLink(p.server, name+" down", pair.down, pair.down, stream.Downstream)
}

// admit records a pair and reports whether the server may be dialed for it.
func (p *Proxy) admit(pair *pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		pair.reset()
		return false
	}
	p.pairs[pair] = struct{}{}
	for direction, cut := range p.cut {
		if cut {
			pair.cut(stream.Direction(direction))
		}
	}
	return !pair.lost
}

func (p *Proxy) dialFailed(pair *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pair.lost {
		return // a cut began meanwhile, so the client gets no answer
	}
	pair.reset()
	delete(p.pairs, pair)
}

// connect gives a pair its connection to the server and reports whether links may start.
func (p *Proxy) connect(pair *pair, server *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	pair.server = server
	pair.up.dst, pair.down.src = server, server
	if pair.gone {
		pair.reset()
		return false
	}
	if pair.lost {
		return false
	}
	pair.linked = true
	p.running.Add(2) // serve still runs, so the counter is above zero
	return true
}

// pair is a client's connection and the connection to the server that belongs to it.
type pair struct {
	proxy    *Proxy
	client   *net.TCPConn
	up, down *leg
	ended    atomic.Int32 // how many of the two legs have ended

	// Guarded by proxy.mu.
	server *net.TCPConn // nil until dialed
	linked bool         // toxiproxy's links carry the pair and report its end
	lost   bool         // a cut has lost bytes of the pair
	gone   bool         // the pair was reset
}

func newPair(p *Proxy, client *net.TCPConn) *pair {
	pair := &pair{proxy: p, client: client}
	pair.up, pair.down = &leg{pair: pair, src: client}, &leg{pair: pair, dst: client}
	pair.up.back, pair.down.back = pair.down, pair.up
	return pair
}

// cut makes one direction lose all bytes from now on. proxy.mu is held.
func (c *pair) cut(direction stream.Direction) {
	leg := c.up
	if direction == stream.Downstream {
		leg = c.down
	}
	c.lost = true
	leg.cut.Store(true)
	if leg.dst != nil {
		_ = leg.dst.SetWriteDeadline(time.Unix(1, 0)) // ends a write that waits for a reader; later writes see cut
	}
}

// reset ends both connections by a TCP reset. proxy.mu is held.
func (c *pair) reset() {
	c.gone = true
	resetConn(c.client)
	if c.server != nil {
		resetConn(c.server)
	}
}

// resetConn closes a connection by a reset. A connection that is closed already stays closed.
func resetConn(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// legEnded records that one of the two legs has ended.
func (c *pair) legEnded() {
	defer c.proxy.running.Done()
	if c.ended.Add(1) < 2 {
		return
	}
	c.client.Close()
	c.server.Close()
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	delete(c.proxy.pairs, c)
}

// leg is one direction of a pair as toxiproxy's link sees it: the link reads what came from src and writes what goes to dst.
// A link's write never fails, because toxiproxy leaks the goroutines of a link whose destination fails while its source still
// sends.
type leg struct {
	pair     *pair
	back     *leg // the other direction
	src, dst *net.TCPConn

	cut    atomic.Bool // written bytes are lost
	broken atomic.Bool // src ended by a reset, not in order
	deaf   atomic.Bool // dst accepts no more bytes
	ended  atomic.Bool
}

// Read makes every end of src look like an end in order. Close knows whether it was a reset.
func (l *leg) Read(b []byte) (int, error) {
	n, err := l.src.Read(b)
	if err != nil && err != io.EOF {
		l.broken.Store(true)
		err = io.EOF
	}
	return n, err
}

// Write never fails.
func (l *leg) Write(b []byte) (int, error) {
	if l.cut.Load() || l.deaf.Load() {
		return len(b), nil
	}
	if _, err := l.dst.Write(b); err != nil && !l.cut.Load() {
		l.deaf.Store(true)
		if l.back.ended.Load() && !l.back.cut.Load() {
			resetConn(l.src) // as the kernel of dst would do; the other direction has ended and cannot report it
		}
	}
	return len(b), nil
}

// Close passes the end of src on to dst, as an end in order or as a reset. The two directions of a TCP connection end
// independently.
func (l *leg) Close() error {
	l.ended.Store(true)
	switch {
	case l.cut.Load(): // not even the end gets through
	case l.broken.Load() || l.back.deaf.Load():
		resetConn(l.dst)
	default:
		_ = l.dst.CloseWrite()
	}
	l.pair.legEnded()
	return nil
}
