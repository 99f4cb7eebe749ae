package nodepool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// FillTask returns a task that opens connections until the pool has goal of them. The task blocks while they are being
// opened, or until the generation ends. pgxpool would open connections only at its next health check, and only for MinConns.
// The pool is Filling from the call of FillTask until the task has ended.
func (p *Pool) FillTask(goal int) (task func()) {
	p.filling.Add(1)
	return func() {
		defer p.filling.Add(-1)
		p.fill(goal)
	}
}

// Filling reports whether connections are being opened.
func (p *Pool) Filling() bool { return p.filling.Load() > 0 }

func (p *Pool) fill(goal int) {
	ctx := new(WaitContext)
	ctx.Bind(context.Background(), p.Generation())
	defer ctx.Release()
	var dials sync.WaitGroup
	defer dials.Wait()
	for p.lacks(goal) && p.openExtra(ctx, goal, &dials) {
	}
}

// lacks reports whether the pool has fewer than goal connections and may open more. Those that are being opened count.
func (p *Pool) lacks(goal int) bool {
	return int(p.pool.Stat().TotalConns()) < min(goal, p.limit)
}

// openExtra makes the pool open a connection although others may be idle. It returns as soon as the dial may begin, so an
// acquire that has to dial waits behind one such dial at most. It returns false if the pool has failed to open one.
func (p *Pool) openExtra(ctx context.Context, goal int, dials *sync.WaitGroup) bool {
	e := &extra{dialled: make(chan struct{}), pool: p}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, extraKey{}, e))
	e.holdTimer = time.AfterFunc(maxHold, cancel)
	ended := make(chan bool, 1)
	dials.Go(func() {
		defer cancel()
		got := true
		for got && !e.heldReleased.Load() && p.lacks(goal) {
			got = p.hold(ctx, e)
		}
		e.releaseHeld()
		ended <- got
	})
	select {
	case <-e.dialled:
		return true
	case got := <-ended:
		return got
	}
}

// hold acquires a connection for e: an idle one, or, if there is none, the one that is opened for e.
func (p *Pool) hold(ctx context.Context, e *extra) bool {
	p.demand.Add(1)
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		p.demand.Add(-1)
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = append(e.held, conn)
	return true
}

// extra is a connection that is opened although others may be idle. pgxpool opens none while one is idle. So fill holds the
// idle ones until pgxpool has begun to open another one, which takes no time. If pgxpool cannot open another one at this
// moment, because the pool is full, fill holds them for maxHold at most.
type extra struct {
	holdTimer    *time.Timer   // ends the search for idle connections after maxHold
	heldReleased atomic.Bool   // whether releaseHeld was called, so that nothing more is to be held
	dialled      chan struct{} // closed when its dial has a slot of the dial gate
	dialledOnce  sync.Once     // closes dialled
	pool         *Pool

	mu   sync.Mutex
	held []*pgxpool.Conn
}

const maxHold = 100 * time.Millisecond

type extraKey struct{}

// extraOf returns the extra that a dial of this pool is made for, or nil. The pool must be compared, because a user's
// hook may use its context for another pool or another PoolManager.
func (p *Pool) extraOf(ctx context.Context) *extra {
	if e, ok := ctx.Value(extraKey{}).(*extra); ok && e.pool == p {
		return e
	}
	return nil
}

// releaseHeld releases the held connections: the pool is opening the extra one, or will not open it.
func (e *extra) releaseHeld() {
	e.holdTimer.Stop()
	e.heldReleased.Store(true)
	e.mu.Lock()
	held := e.held
	e.held = nil
	e.mu.Unlock()
	for _, conn := range held {
		conn.Release()
	}
}
