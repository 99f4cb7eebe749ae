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

// Template returns a copy of the configuration with which guests connect. It is the user's, but its handlers of errors and
// notices also tell the pool.
func (p *Pool) Template() *pgxpool.Config { return p.template.Copy() }

// ReserveGuest counts a guest that is about to connect. It returns nil if no guest may connect any more. If the attempt does
// not begin, the caller must call FinishGuest with an error.
func (p *Pool) ReserveGuest() *DialAttempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.guests.Add(1)
	p.Load.guests.Add(1)
	return &DialAttempt{pool: p, guest: true, resets: p.resets.Load()}
}

// PrepareDial prepares a configuration of [Pool.Template] for an attempt. It calls the user's BeforeConnect first. It
// returns when the attempt has a slot of the dial gate.
func (p *Pool) PrepareDial(ctx context.Context, config *pgx.ConnConfig, a *DialAttempt) error {
	return p.prepareDial(ctx, config, p.template.BeforeConnect, a)
}

// FinishGuest ends an attempt of a guest. If it succeeded, the guest is counted until its socket closes. Otherwise the guest
// is no longer counted.
func (a *DialAttempt) FinishGuest(err error) {
	if a.guestFinished.Swap(true) {
		return
	}
	if err != nil || a.socket == nil {
		a.pool.releaseGuest()
		return
	}
	a.socket.resets, a.socket.usedAt = a.resets, time.Now()
	a.socket.guest.Store(true)
	a.socket.markIdle()
}

// Accept runs the user's AfterConnect for a new guest. Its error says why the guest cannot be used.
func (p *Pool) Accept(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := p.untilEnd(ctx)
	defer cancel()
	return p.accept(ctx, conn, p.template.AfterConnect)
}

// IsGuest reports whether a connection is counted as a guest.
func IsGuest(conn *pgx.Conn) bool {
	s := socketOf(conn)
	return s != nil && s.guest.Load()
}

// IsUnusable reports whether a guest must not be used any more: it has ended, or the pool was reset after it connected.
func (p *Pool) IsUnusable(conn *pgx.Conn) bool {
	s := socketOf(conn)
	return s.resets != p.resets.Load() || p.endedSockets.Load() > 0 && p.hasReadEnded(s)
}

// AllowUse reports whether a guest may be used once more. It makes the checks that the pool makes for its own connections. A
// guest that may be used counts as busy.
func (p *Pool) AllowUse(ctx context.Context, conn *pgx.Conn) bool {
	s := socketOf(conn)
	if p.traffic.sampleNext.Load() {
		p.traffic.compare(conn.PgConn())
	}
	now := time.Now()
	idle := now.Sub(s.usedAt)
	s.usedAt = now
	if p.shouldPing(ctx, conn, idle) && p.ping(ctx, conn.Ping) != nil {
		return false
	}
	s.allowedAt.Store(int64(now.Sub(epoch)))
	return true
}

// Busy is InUse without the idle guests: their owner may keep them for hours.
func (p *Pool) Busy() int {
	p.mu.Lock() // no guest is reserved between the two counts, so InUse counts every guest that is subtracted
	defer p.mu.Unlock()
	busy, now := p.InUse(), time.Now()
	for s := range p.sockets {
		if s.isIdleGuest(now) {
			busy--
		}
	}
	return busy
}

// maxUnusedAllowance is how long a guest counts as busy after AllowUse if nothing is sent. Its owner may have put it back into
// a pool unused. No hook reports that.
const maxUnusedAllowance = time.Second

// isIdleGuest reports whether the socket is of a guest that is in no statement and no transaction, and that was not just
// allowed to begin one.
func (s *Socket) isIdleGuest(now time.Time) bool {
	allowedAt := s.allowedAt.Load()
	return s.guest.Load() && s.idle.Load() && (allowedAt == 0 || now.Sub(epoch)-time.Duration(allowedAt) >= maxUnusedAllowance)
}

// shouldPing reports whether a guest must be pinged before it is used, by the rule that the pool has.
func (p *Pool) shouldPing(ctx context.Context, conn *pgx.Conn, idle time.Duration) bool {
	return p.traffic.lostSince(idle) || p.template.ShouldPing(ctx, pgxpool.ShouldPingParams{Conn: conn, IdleDuration: idle})
}

// GuestSockets returns the sockets of guests.
func (p *Pool) GuestSockets() []*Socket {
	return slices.DeleteFunc(p.Sockets(), func(s *Socket) bool { return !s.guest.Load() })
}

// UncountGuest stops counting a guest before it is closed, because pgx may need a while to close it.
func UncountGuest(conn *pgx.Conn) {
	if s := socketOf(conn); s != nil {
		s.uncountGuest()
	}
}

// releaseGuest undoes ReserveGuest.
func (p *Pool) releaseGuest() {
	p.Load.guests.Add(-1)
	p.guests.Done()
}

// uncountGuest stops counting a socket as a guest.
func (s *Socket) uncountGuest() {
	if s.guest.Swap(false) {
		s.pool.releaseGuest()
	}
}

// markIdle notes that a guest is in no statement and no transaction any more.
func (s *Socket) markIdle() {
	if s.guest.Load() {
		s.idle.Store(true)
		s.allowedAt.Store(0)
	}
}

// markBusy stops counting a guest as idle, because something is about to be sent.
func (s *Socket) markBusy() {
	if s.idle.Load() {
		s.idle.Store(false)
	}
}
