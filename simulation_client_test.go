package hasql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// client is a part of a service: the even ones write, the odd ones read, at a pace of their own and with all kinds of
// patience.
type client struct {
	s     *simulation
	id    int
	draws *rand.Rand
	made  int // operations so far

	// Guarded by simulation.mu.

	cancel context.CancelFunc // ends the operation, for cancelAll; nil between two
	doing  string             // the operation; empty between two
	target Target             // what it acquires, while it does
	since  time.Time          // when that began; zero while it does not
	node   int                // which node it has asked something
	asked  time.Time          // when; zero while it waits for no answer
}

// operation is one thing that a client does, and how long it may take.
type operation struct {
	*client
	context.Context
	began     time.Time
	acquire   time.Duration // what the acquire may take
	limit     time.Duration // what all of it may take
	impatient bool          // whether its caller ends it early, so that it may fail at any time
	known     *Snapshot     // before it began
	target    Target
	atLeast   LSN           // what a read demands
	maxLag    time.Duration // the same
}

func (c *client) run() {
	for {
		select {
		case <-time.After(between(c.draws, 20*time.Millisecond, 300*time.Millisecond)):
		case <-c.s.running.Done():
			return
		}
		if errors.Is(c.operate(), ErrClosed) {
			return
		}
	}
}

// operate does one thing under one of several kinds of budget.
func (c *client) operate() (err error) {
	c.made++
	o := &operation{client: c, began: time.Now(), known: c.s.pm.Snapshot(), target: TargetMaster}
	if c.id%2 == 1 {
		o.target = TargetReplica
	}
	var cancel context.CancelFunc
	switch n := c.draws.IntN(10); {
	case n < 5 || n < 7 && c.s.plan.synchronous: // where a commit waits for a replica, nobody but the caller ends it
		budget := between(c.draws, 100*time.Millisecond, 2500*time.Millisecond)
		o.Context, cancel = context.WithTimeout(context.Background(), budget)
		o.acquire, o.limit = min(budget, c.s.plan.acquireTimeout), budget
	case n < 7:
		o.Context, cancel = context.WithCancel(context.Background())
		o.acquire = c.s.plan.acquireTimeout
		o.limit = o.acquire + statementBound(&c.s.plan)
	default:
		budget := between(c.draws, time.Millisecond, 1500*time.Millisecond)
		o.impatient = true
		o.Context, cancel = context.WithCancel(context.Background())
		timer := time.AfterFunc(budget, cancel)
		defer timer.Stop()
		o.acquire, o.limit = min(budget, c.s.plan.acquireTimeout), budget
	}
	defer cancel()

	choices := reads
	if o.target == TargetMaster {
		choices = writes
	}
	work := choices[c.draws.IntN(len(choices))]
	c.begin(work.name, cancel)
	err = work.do(o)
	c.begin("", nil)
	c.s.finished(o, work.name, err)
	return err
}

func (c *client) begin(doing string, cancel context.CancelFunc) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.doing, c.cancel = doing, cancel
}

// waits notes that the client begins to acquire, or no longer does.
func (c *client) waits(target Target, since time.Time) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.target, c.since = target, since
}

// asks runs a statement, and notes who has to answer it.
func (o *operation) asks(conn *pgxpool.Conn, statement func() error) error {
	mark := func(asked time.Time) {
		o.s.mu.Lock()
		defer o.s.mu.Unlock()
		o.node, o.asked = o.s.node(conn.Conn().Config().Host), asked
	}
	mark(time.Now())
	defer mark(time.Time{})
	return statement()
}

type work struct {
	name string
	do   func(*operation) error
}

var (
	writes = []work{{"exec", write}, {"exec", write}, {"several", several}, {"tx", transact}, {"rollback", rollback}}
	reads  = []work{
		{"query-row", queryRow}, {"query-row", queryRow}, {"query", query}, {"hold", hold}, {"at-least", atLeast}, {"recent", recent},
	}
)

// route is what the operation goes through.
func (o *operation) route() *Route { return &o.s.pm.routes[o.target] }

// token is a name for a write that no other has.
func (o *operation) token(part int) string {
	token := fmt.Sprintf("%d-%d-%d", o.id, o.made, part)
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.asked[token] = true
	return token
}

// lent acquires a connection, and notes what must hold of it.
func (o *operation) lent() (*pgxpool.Conn, error) {
	began := time.Now()
	o.waits(o.target, began)
	conn, err := o.route().Acquire(o)
	o.waits(o.target, time.Time{})
	o.s.within(fmt.Sprintf("client %d: acquire of a %v", o.id, o.target), began, o.acquire, err)
	if err == nil {
		o.s.lent(o, conn)
		o.s.checkReplica(o, conn)
		o.s.checkListed(o, began, conn)
	}
	return conn, err
}

func write(o *operation) error {
	_, err := o.route().Exec(o, "insert $1", o.token(0))
	if err == nil {
		o.s.acknowledged(o, nil, o.token(0))
	}
	return o.s.failed(err, o.token(0))
}

func several(o *operation) error {
	conn, err := o.lent()
	if err != nil {
		return err
	}
	defer conn.Release()
	for part := range 3 {
		if err := o.asks(conn, func() error {
			_, err := conn.Exec(o, "insert $1", o.token(part))
			return err
		}); err != nil {
			return o.s.failed(err, o.token(part))
		}
		o.s.acknowledged(o, conn, o.token(part))
		o.pause(0, 5*time.Millisecond)
	}
	return nil
}

func transact(o *operation) error {
	err := pgx.BeginFunc(o, o.route(), func(tx pgx.Tx) error {
		for part := range 2 {
			if _, err := tx.Exec(o, "insert $1", o.token(part)); err != nil {
				return err
			}
			o.pause(0, 5*time.Millisecond)
		}
		return nil
	})
	if err == nil {
		o.s.acknowledged(o, nil, o.token(0))
		o.s.acknowledged(o, nil, o.token(1))
	}
	return o.s.failed(err, o.token(0), o.token(1))
}

func rollback(o *operation) error {
	tx, err := o.route().Begin(o)
	if err != nil {
		return err
	}
	_, err = tx.Exec(o, "insert $1", o.token(0))
	o.s.undone("was rolled back", o.token(0))
	return errors.Join(err, tx.Rollback(o))
}

func queryRow(o *operation) (err error) {
	var name string
	if err = o.route().QueryRow(o, "read").Scan(&name); err == nil {
		o.s.read()
	}
	return err
}

func query(o *operation) error {
	rows, err := o.route().Query(o, "select role")
	if err != nil {
		return err
	}
	if _, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
		o.s.read()
	}
	return err
}

func hold(o *operation) error {
	conn, err := o.lent()
	if err != nil {
		return err
	}
	defer conn.Release()
	o.pause(0, 40*time.Millisecond)
	if err := o.asks(conn, func() error { return conn.Ping(o) }); err != nil {
		return err
	}
	o.s.read()
	return nil
}

// atLeast reads what has been written lately, by whoever did.
func atLeast(o *operation) error {
	o.atLeast = o.s.lastWrite()
	return o.demanding(AtLeast(o.atLeast))
}

// recent reads nothing that is too old.
func recent(o *operation) error {
	o.maxLag = o.s.plan.maxLag
	return o.demanding(WithMaxLag(o.maxLag))
}

// demanding reads on a replica that is known to have what is asked for.
func (o *operation) demanding(option RouteOption) error {
	o.s.demands.Add(1)
	conn, err := o.s.pm.Replica(option).Acquire(o)
	if err != nil {
		return err
	}
	defer conn.Release()
	o.s.checkReplica(o, conn)
	if err := o.asks(conn, func() error { return conn.Ping(o) }); err != nil {
		return err
	}
	o.s.read()
	return nil
}

// pause lets the client think, with a connection in its hand.
func (o *operation) pause(least, most time.Duration) {
	select {
	case <-time.After(between(o.draws, least, most)):
	case <-o.Done():
	}
}

// crowd reads with more readers than a pool has connections, so that those of a node that keeps them waiting are all in use.
func (s *simulation) crowd(step step) {
	ctx, cancel := context.WithTimeout(context.Background(), step.wait)
	var readers sync.WaitGroup
	for range s.plan.maxConns + 1 {
		readers.Go(func() {
			for ctx.Err() == nil && !errors.Is(s.pm.routes[TargetReplica].QueryRow(ctx, "read").Scan(new(string)), ErrClosed) {
				time.Sleep(time.Millisecond)
			}
		})
	}
	go func() {
		readers.Wait()
		cancel()
	}()
}

// hog takes every connection of a node's pool for a while, as the work of others.
func (s *simulation) hog(step step) {
	ctx, cancel := context.WithTimeout(context.Background(), step.wait)
	for range s.plan.maxConns {
		go func() {
			target := TargetReplica
			if step.node == theMaster {
				target = TargetMaster
			}
			if conn, err := s.pm.routes[target].Acquire(ctx); err == nil {
				<-ctx.Done()
				conn.Release()
			}
		}()
	}
	context.AfterFunc(ctx, cancel)
}
