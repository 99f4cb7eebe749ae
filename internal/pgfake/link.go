package pgfake

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ending says how one direction of a connection is over.
type ending uint8

const (
	open     ending = iota
	finished        // FIN: the reader sees io.EOF
	reset           // RST: the reader sees ECONNRESET
)

// way is a direction of the network, or both.
type way uint8

const (
	toServer way = 1 << iota
	toClient
	both = toServer | toClient
)

// packet is what one Write put on the wire, or the end of the stream.
type packet struct {
	data  []byte
	end   ending
	ready time.Time // when the sender lets go of it: the node's latency
	sent  bool      // it left the sender, whose freezing or death no longer matters
	at    time.Time // when it arrived
}

// queue is one direction of a link, in order: on the way, then arrived.
type queue struct {
	flight  []packet
	arrived []packet
}

// link is one TCP connection between a client and a node. Writes never block,
// as if both kernels had unlimited buffers.
type link struct {
	mu           sync.Mutex
	wake         chan struct{} // closed at the next change; nil while nobody waits
	up, down     queue         // to the server, to the client
	cut          way           // packets of these ways stay in flight
	frozen       bool          // the server process neither reads nor sends
	clientClosed bool
	serverClosed bool
	broken       bool // the client has written to a closed peer: its next write fails

	latency, skew               time.Duration
	requested                   time.Time // arrival of what the server read last
	readDeadline, writeDeadline time.Time // of the client's end
}

// notifyLocked wakes everyone who waits on the link.
func (l *link) notifyLocked() {
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// waitUnlocking gives mu up and returns after the next change of the link, or at
// until unless that is zero.
func (l *link) waitUnlocking(until time.Time) {
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	wake := l.wake
	l.mu.Unlock()
	if until.IsZero() {
		<-wake
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	}
}

// settleLocked moves what has arrived by now. Whoever changes a gate settles
// first, so that a packet keeps the progress it had made.
func (l *link) settleLocked(now time.Time) {
	for i := range l.down.flight {
		if p := &l.down.flight[i]; !p.sent && !l.frozen && !now.Before(p.ready) {
			p.sent = true
		}
	}
	if l.cut&toServer == 0 {
		l.up.deliver(now)
	}
	if l.cut&toClient == 0 {
		l.down.deliver(now)
	}
}

// deliver moves what has been sent.
func (q *queue) deliver(now time.Time) {
	for len(q.flight) > 0 && q.flight[0].sent {
		p := q.flight[0]
		p.at = now
		q.flight = q.flight[1:]
		q.arrived = append(q.arrived, p)
	}
}

// setGates applies the state of the node's network and process. A new latency
// applies to what the server writes from now on.
func (l *link) setGates(cut way, frozen bool, latency time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.settleLocked(now)
	l.cut, l.frozen, l.latency = cut, frozen, latency
	l.settleLocked(now)
	l.notifyLocked()
}

// over reports whether no later change of the node can matter to either end.
func (l *link) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settleLocked(time.Now())
	return l.serverClosed && (l.clientClosed || len(l.down.flight) == 0)
}

// take copies arrived bytes into b. It reads at most one packet, so that the
// time of the request is known.
func (q *queue) take(b []byte) (n int, at time.Time, end ending) {
	if len(q.arrived) == 0 {
		return 0, time.Time{}, open
	}
	p := &q.arrived[0]
	if p.end != open {
		return 0, p.at, p.end
	}
	at = p.at
	n = copy(b, p.data)
	if p.data = p.data[n:]; len(p.data) == 0 {
		q.arrived = q.arrived[1:]
	}
	return n, at, open
}

// clientRead blocks until bytes, the end of the stream, the client's own Close
// or its deadline.
func (l *link) clientRead(b []byte) (int, error) {
	for {
		l.mu.Lock()
		now := time.Now()
		l.settleLocked(now)
		if l.clientClosed {
			l.mu.Unlock()
			return 0, net.ErrClosed
		}
		if expired(l.readDeadline, now) {
			l.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		n, _, end := l.down.take(b)
		if n > 0 || end != open || len(b) == 0 {
			l.mu.Unlock()
			return n, end.err()
		}
		until := l.readDeadline
		if next := l.nextReadyLocked(); !next.IsZero() && (until.IsZero() || next.Before(until)) {
			until = next
		}
		l.waitUnlocking(until)
	}
}

// nextReadyLocked is when the head of the way to the client arrives by itself.
func (l *link) nextReadyLocked() time.Time {
	if l.cut&toClient != 0 || l.frozen || len(l.down.flight) == 0 {
		return time.Time{}
	}
	return l.down.flight[0].ready
}

// clientWrite hands b to the kernel. Like the kernel, it accepts the first
// write after the server has gone: only the answer to it, a RST, tells.
func (l *link) clientWrite(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.settleLocked(now)
	if l.clientClosed {
		return 0, net.ErrClosed
	}
	if expired(l.writeDeadline, now) {
		return 0, os.ErrDeadlineExceeded
	}
	switch end := l.down.end(); {
	case end == reset, l.broken:
		return 0, syscall.EPIPE
	case end == finished:
		l.broken = true
		return len(b), nil
	}
	if !l.serverClosed {
		l.up.flight = append(l.up.flight, packet{data: append([]byte(nil), b...), sent: true})
		l.settleLocked(now)
		l.notifyLocked()
	}
	return len(b), nil
}

// end is the end of the stream if it has arrived, behind whatever data.
func (q *queue) end() ending {
	if len(q.arrived) == 0 {
		return open
	}
	return q.arrived[len(q.arrived)-1].end
}

// clientClose ends the client's end at once; the server reads what was written
// before, then EOF.
func (l *link) clientClose() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clientClosed {
		return net.ErrClosed
	}
	l.clientClosed = true
	l.up.flight = append(l.up.flight, packet{end: finished, sent: true})
	l.down = queue{}
	l.settleLocked(time.Now())
	l.notifyLocked()
	return nil
}

// setDeadlines sets those that are not nil.
func (l *link) setDeadlines(read, write *time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clientClosed {
		return net.ErrClosed
	}
	if read != nil {
		l.readDeadline = *read
	}
	if write != nil {
		l.writeDeadline = *write
	}
	l.notifyLocked()
	return nil
}

// expired reports whether a deadline is set and has passed.
func expired(deadline, now time.Time) bool {
	return !deadline.IsZero() && !now.Before(deadline)
}

// err is what a read at the end of a stream returns.
func (e ending) err() error {
	switch e {
	case finished:
		return io.EOF
	case reset:
		return syscall.ECONNRESET
	}
	return nil
}
