package main

import (
	"context"
	"sync"
	"time"
)

// loadOptions say how the clients work.
type loadOptions struct {
	readers int
	pause   time.Duration // between two operations of a client
	limit   time.Duration // time limit of one operation
}

// load is a service at work: one writer and some readers, which do not know the nodes.
type load struct {
	loadOptions
	subject subject
	nodeAt  map[int]int // by port

	lastID  int64
	running sync.WaitGroup
	resting chan struct{} // closed to let the clients finish
	quit    context.CancelFunc

	// clients are all clients of this run. After a pause, new ones take the place of the earlier ones. Each writes its own
	// operations; others may read them once it has ended.
	clients []*client
}

// client does one operation after the other.
type client struct {
	writes bool
	number int // among those that work at the same time
	done   []operation
}

// operation is one finished operation, as its client records it.
type operation struct {
	id         int64 // of a write
	start, end time.Time
	node       int
	err        error
}

// start starts the clients. They work until rest or stop, or until ctx ends.
func (l *load) start(ctx context.Context) {
	ctx, l.quit = context.WithCancel(ctx)
	l.resting = make(chan struct{})
	for number := range 1 + l.readers {
		c := &client{writes: number == 0, number: number}
		l.clients = append(l.clients, c)
		l.running.Go(func() { l.work(ctx, c, l.resting) })
	}
}

// rest lets every client finish its operation, and returns when all have ended.
func (l *load) rest() {
	close(l.resting)
	l.running.Wait()
	l.quit()
}

// stop interrupts the clients. Interrupted operations are not recorded.
func (l *load) stop() {
	if l.quit != nil {
		l.quit()
	}
	l.running.Wait()
}

func (l *load) work(ctx context.Context, c *client, resting <-chan struct{}) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-resting:
			return
		case <-ctx.Done():
			return
		}
		d := l.once(ctx, c)
		if d.err != nil && ctx.Err() != nil {
			return
		}
		c.done = append(c.done, d)
		pause.Reset(l.pause)
	}
}

// once does one operation.
func (l *load) once(ctx context.Context, c *client) operation {
	ctx, cancel := context.WithTimeout(ctx, l.limit)
	defer cancel()
	var port int
	d := operation{node: nobody, start: time.Now()}
	if c.writes {
		l.lastID++ // there is one writer at a time
		d.id = l.lastID
		port, d.err = l.subject.write(ctx, d.id)
	} else {
		port, d.err = l.subject.read(ctx)
	}
	d.end = time.Now()
	if d.err == nil {
		d.node = l.nodeAt[port]
	}
	return d
}

// ops returns all operations, with times since zero. No client may be at work.
func (l *load) ops(zero time.Time) (ops []op) {
	for _, c := range l.clients {
		for _, d := range c.done {
			o := op{client: c.number, write: c.writes, id: d.id, start: d.start.Sub(zero), end: d.end.Sub(zero), node: d.node}
			if d.err != nil {
				o.err = d.err.Error()
			}
			ops = append(ops, o)
		}
	}
	return ops
}
