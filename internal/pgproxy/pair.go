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

// accept takes clients until the listener is closed.
func (p *Proxy) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // else the client left while it waited
			p.running.Go(func() { p.serve(conn.(*net.TCPConn)) })
		}
	}
}

// serve connects a client to the server and starts the links between them. During a cut it only keeps what there is of
// a pair, for Heal to reset.
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

// admit takes note of a pair and says whether the server may be dialed for it.
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
		return // the network died meanwhile: nobody can tell the client
	}
	pair.reset()
	delete(p.pairs, pair)
}

// connect gives a pair its server and says whether links may start between them.
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
	p.running.Add(2) // serve, which runs, keeps it above zero
	return true
}

// pair is a client's connection and the one to the server that belongs to it.
type pair struct {
	proxy    *Proxy
	client   *net.TCPConn
	up, down *leg
	ended    atomic.Int32 // of its two legs

	// Guarded by proxy.mu.
	server *net.TCPConn // nil until dialed
	linked bool         // toxiproxy's links carry it and tell of its end
	lost   bool         // something of it, in a cut
	gone   bool         // reset
}

func newPair(p *Proxy, client *net.TCPConn) *pair {
	pair := &pair{proxy: p, client: client}
	pair.up, pair.down = &leg{pair: pair, src: client}, &leg{pair: pair, dst: client}
	pair.up.back, pair.down.back = pair.down, pair.up
	return pair
}

// cut makes one direction lose all from now on; proxy.mu is held.
func (c *pair) cut(direction stream.Direction) {
	leg := c.up
	if direction == stream.Downstream {
		leg = c.down
	}
	c.lost = true
	leg.cut.Store(true)
	if leg.dst != nil {
		_ = leg.dst.SetWriteDeadline(time.Unix(1, 0)) // ends a write that waits for a reader; the next ones see cut
	}
}

// reset ends both connections by a TCP reset; proxy.mu is held.
func (c *pair) reset() {
	c.gone = true
	resetConn(c.client)
	if c.server != nil {
		resetConn(c.server)
	}
}

// resetConn closes a connection by a reset instead of in order. One that is closed already stays so.
func resetConn(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// legEnded takes note that one of two legs has ended.
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

// leg is one direction of a pair as toxiproxy's link sees it: the link reads from it what came from src, and writes
// to it what is for dst. It never fails a link's write: toxiproxy leaves the goroutines of a link behind whose
// destination fails while its source still sends.
type leg struct {
	pair     *pair
	back     *leg // the other direction
	src, dst *net.TCPConn

	cut    atomic.Bool // what is written is lost
	broken atomic.Bool // src ended by a reset, not in order
	deaf   atomic.Bool // dst takes no more
	ended  atomic.Bool
}

// Read makes every end of src look like an orderly one; Close knows the difference.
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
			resetConn(l.src) // what the kernel of dst would have done; back has ended and cannot tell it
		}
	}
	return len(b), nil
}

// Close tells dst that src has ended, in the way it did. Both ends of a TCP connection end for themselves.
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
