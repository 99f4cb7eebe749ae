package pgfake

import (
	"net"
	"time"
)

// serverEnd is the node's side of a link, as a pgproto3.Backend wants it.
type serverEnd struct{ *link }

// Read blocks until bytes arrive while the process is not frozen, or the
// connection ends from either side.
func (e serverEnd) Read(b []byte) (int, error) {
	l := e.link
	for {
		l.mu.Lock()
		l.settleLocked(time.Now())
		if l.serverClosed {
			l.mu.Unlock()
			return 0, net.ErrClosed
		}
		if !l.frozen {
			n, at, end := l.up.take(b)
			if n > 0 || end != open {
				l.requested = at
				l.mu.Unlock()
				return n, end.err()
			}
		}
		l.waitUnlocking(time.Time{})
	}
}

// Write sends b to the client, no earlier than the latency after the request it
// answers. It must hold whole messages: a FATAL may follow it at any time.
func (e serverEnd) Write(b []byte) (int, error) {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serverClosed {
		return 0, net.ErrClosed
	}
	l.sendLocked(packet{data: append([]byte(nil), b...), ready: l.requested.Add(l.latency + l.skew)})
	return len(b), nil
}

// sendLocked puts p behind what is on the way to the client.
func (l *link) sendLocked(p packet) {
	if l.clientClosed {
		return
	}
	if n := len(l.down.flight); n > 0 && p.ready.Before(l.down.flight[n-1].ready) {
		p.ready = l.down.flight[n-1].ready
	}
	l.down.flight = append(l.down.flight, p)
	l.settleLocked(time.Now())
	l.notifyLocked()
}

// awaitThaw blocks while the process is frozen and reports whether the server's
// side of the connection is still open.
func (l *link) awaitThaw() bool {
	for {
		l.mu.Lock()
		if l.serverClosed || !l.frozen {
			alive := !l.serverClosed
			l.mu.Unlock()
			return alive
		}
		l.waitUnlocking(time.Time{})
	}
}

// hangUp closes the server's side after the last words, if any. They wait for
// Thaw and Heal like everything the server sends.
func (l *link) hangUp(lastWords []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serverClosed {
		return
	}
	l.serverClosed = true
	l.up = queue{}
	if len(lastWords) > 0 {
		l.sendLocked(packet{data: lastWords})
	}
	l.sendLocked(packet{end: finished})
	l.notifyLocked()
}

// kill closes the server's side as the kernel does for a dead process, frozen or
// not: what it had not sent yet is lost, and unread requests turn the end into a
// reset. On a cut network the client learns of it at Heal.
func (l *link) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settleLocked(time.Now())
	end := finished
	if len(l.up.arrived) > 0 && l.up.arrived[0].end == open {
		end = reset
	}
	l.serverClosed = true
	l.up = queue{}
	kept := l.down.flight[:0]
	ended := false
	for _, p := range l.down.flight {
		if p.sent {
			kept = append(kept, p)
			ended = ended || p.end != open
		}
	}
	l.down.flight = kept
	if !ended && l.down.end() == open && !l.clientClosed {
		l.down.flight = append(l.down.flight, packet{end: end, sent: true})
	}
	l.settleLocked(time.Now())
	l.notifyLocked()
}
