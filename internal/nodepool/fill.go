package nodepool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Fill returns a function that opens connections until the pool has goal of them. The function blocks while they are
// being opened, or until the generation ends. pgxpool would open connections only at its next health check, and only for
// MinConns. The pool is Filling from the call of Fill until the function has returned.
func (n *Pool) Fill(goal int) (fill func()) {
	n.filling.Add(1)
	return func() {
		defer n.filling.Add(-1)
		n.fill(goal)
	}
}

// Filling reports whether connections are being opened.
func (n *Pool) Filling() bool { return n.filling.Load() > 0 }

func (n *Pool) fill(goal int) {
	ctx := new(Wait)
	ctx.Bind(context.Background(), n.Generation())
	defer ctx.Release()
	var dials sync.WaitGroup
	defer dials.Wait()
	for n.lacks(goal) && n.openExtra(ctx, goal, &dials) {
	}
}

// lacks reports whether the pool has fewer than goal connections and may open more. Those that are being opened count.
func (n *Pool) lacks(goal int) bool {
	return int(n.pool.Stat().TotalConns()) < min(goal, n.limit)
}

// openExtra makes the pool open a connection although others may be idle. It returns as soon as the dial may begin, so an
// acquire that has to dial waits behind one such dial at most. It returns false if no connection will be opened.
func (n *Pool) openExtra(ctx context.Context, goal int, dials *sync.WaitGroup) bool {
	e := &extra{dialled: make(chan struct{}), pool: n}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, extraKey{}, e))
	e.limit = time.AfterFunc(maxHold, cancel)
	over := make(chan bool, 1)
	dials.Go(func() {
		defer cancel()
		got := true
		for got && !e.begun.Load() && n.lacks(goal) {
			got = n.hold(ctx, e)
		}
		e.begin()
		over <- got
	})
	select {
	case <-e.dialled:
		return true
	case got := <-over:
		return got
	}
}

// hold acquires a connection for e: an idle one, or, if there is none, the one that is opened for e.
func (n *Pool) hold(ctx context.Context, e *extra) bool {
	n.demand.Add(1)
	conn, err := n.pool.Acquire(ctx)
	if err != nil {
		n.demand.Add(-1)
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = append(e.held, conn)
	return true
}

// extra is a connection that is opened although others may be idle. pgxpool opens none while one is idle. So the idle
// ones are held until pgxpool has begun to open the connection, which takes no time. If the pool is full at this moment
// they are held for maxHold at most.
type extra struct {
	limit   *time.Timer
	begun   atomic.Bool
	dialled chan struct{} // closed when its dial has been let in
	letIn   sync.Once     // closes it
	pool    *Pool

	mu   sync.Mutex
	held []*pgxpool.Conn
}

const maxHold = 100 * time.Millisecond

type extraKey struct{}

// extraOf returns the extra that a dial of this pool is made for, or nil. The pool must be compared, because a user's
// hook may use its context for another pool or another PoolManager.
func (n *Pool) extraOf(ctx context.Context) *extra {
	if e, ok := ctx.Value(extraKey{}).(*extra); ok && e.pool == n {
		return e
	}
	return nil
}

// begin releases the held connections: the pool is opening the extra one, or will not open it.
func (e *extra) begin() {
	e.limit.Stop()
	e.begun.Store(true)
	e.mu.Lock()
	held := e.held
	e.held = nil
	e.mu.Unlock()
	for _, conn := range held {
		conn.Release()
	}
}
