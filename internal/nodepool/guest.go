package nodepool

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A guest is a connection to the node that is not in the pool: of a pool that follows a route, of a sql.DB, or the user's own.
// Like a pooled connection it goes through the dial gate, counts as load, gives evidence about the node, and is cut with the
// others. It takes none of the pool's places.

// Template returns a copy of the user's configuration, with which guests connect.
func (n *Pool) Template() *pgxpool.Config { return n.template.Copy() }

// Invite counts a guest that is about to connect. It returns nil if no guest is let in any more. If the attempt does not
// begin, the caller must call Settle with an error.
func (n *Pool) Invite() *Attempt {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.guests.Add(1)
	n.Load.guests.Add(1)
	return &Attempt{pool: n, guest: true, resets: n.resets.Load()}
}

// Equip prepares a configuration of [Pool.Template] for an attempt. It calls the user's BeforeConnect first. It returns
// when the attempt may begin.
func (n *Pool) Equip(ctx context.Context, config *pgx.ConnConfig, a *Attempt) error {
	return n.equip(ctx, config, n.template.BeforeConnect, a)
}

// Settle ends an attempt of a guest. If it succeeded, the guest is counted until its socket closes. Otherwise the guest
// is no longer counted.
func (a *Attempt) Settle(err error) {
	if a.settled.Swap(true) {
		return
	}
	if err != nil || a.socket == nil {
		a.pool.guestGone()
		return
	}
	a.socket.resets, a.socket.usedAt = a.resets, time.Now()
	a.socket.guest.Store(true)
	a.socket.rest()
}

// Abandon gives the place in the gate back if no connection was attempted.
func (a *Attempt) Abandon() {
	if !a.over.Swap(true) {
		a.pool.dials.leave()
	}
}

// Made reports whether the attempt has made the connection.
func (a *Attempt) Made(conn *pgx.Conn) bool { return a.socket != nil && socketOf(conn) == a.socket }

// Accept runs the user's AfterConnect for a new guest. Its error says why the guest cannot be used.
func (n *Pool) Accept(ctx context.Context, conn *pgx.Conn) error {
	ctx, over := n.untilEnd(ctx)
	defer over()
	return n.accept(ctx, conn, n.template.AfterConnect)
}

// IsGuest reports whether a connection is counted as a guest.
func IsGuest(conn *pgx.Conn) bool {
	s := socketOf(conn)
	return s != nil && s.guest.Load()
}

// IsGivenUp reports whether a guest must not be used any more: it has ended, or the pool was reset after it connected.
func (n *Pool) IsGivenUp(conn *pgx.Conn) bool {
	s := socketOf(conn)
	return s.resets != n.resets.Load() || n.endedSockets.Load() > 0 && n.isOver(s)
}

// Use reports whether a guest may be used once more. It makes the checks that the pool makes for its own connections.
func (n *Pool) Use(ctx context.Context, conn *pgx.Conn) bool {
	s := socketOf(conn)
	if n.traffic.sampleNext.Load() {
		n.traffic.compare(conn.PgConn())
	}
	now := time.Now()
	idle := now.Sub(s.usedAt)
	s.usedAt = now
	if n.shouldPing(ctx, conn, idle) && n.ping(ctx, conn.Ping) != nil {
		return false
	}
	s.claimed.Store(int64(now.Sub(epoch)))
	return true
}

// Busy is InUse without the guests that are at rest: their owner may keep them for hours.
func (n *Pool) Busy() int {
	n.mu.Lock() // no guest is invited meanwhile, so none is at rest that is not counted
	defer n.mu.Unlock()
	busy, now := n.InUse(), time.Now()
	for s := range n.sockets {
		if s.atRest(now) {
			busy--
		}
	}
	return busy
}

// maxClaim is how long a guest that may be used once more counts as busy before anything is sent. Whoever has it may give it back
// without a word, which nobody tells us.
const maxClaim = time.Second

// atRest reports whether a guest is in no statement and no transaction, and not about to be.
func (s *Socket) atRest(now time.Time) bool {
	claimed := s.claimed.Load()
	return s.guest.Load() && s.quiet.Load() && (claimed == 0 || now.Sub(epoch)-time.Duration(claimed) >= maxClaim)
}

// shouldPing reports whether a guest has to prove that it is alive, by the rule that the pool has.
func (n *Pool) shouldPing(ctx context.Context, conn *pgx.Conn, idle time.Duration) bool {
	if n.traffic.lostSince(idle) {
		return true
	}
	if should := n.template.ShouldPing; should != nil {
		return should(ctx, pgxpool.ShouldPingParams{Conn: conn, IdleDuration: idle})
	}
	return idle > time.Second
}

// GuestSockets returns the sockets of guests.
func (n *Pool) GuestSockets() []*Socket {
	return slices.DeleteFunc(n.Sockets(), func(s *Socket) bool { return !s.guest.Load() })
}

// GuestLeaves stops counting a guest before it is closed, because pgx may need a while to close it.
func GuestLeaves(conn *pgx.Conn) {
	if s := socketOf(conn); s != nil {
		s.leave()
	}
}

func (n *Pool) guestGone() {
	n.Load.guests.Add(-1)
	n.guests.Done()
}

// leave stops counting a socket as a guest.
func (s *Socket) leave() {
	if s.guest.Swap(false) {
		s.pool.guestGone()
	}
}

// rest notes that a guest is in no statement and no transaction any more.
func (s *Socket) rest() {
	if s.guest.Load() {
		s.quiet.Store(true)
		s.claimed.Store(0)
	}
}

// stir stops counting a guest as quiet, because something is about to be sent.
func (s *Socket) stir() {
	if s.quiet.Load() {
		s.quiet.Store(false)
	}
}
