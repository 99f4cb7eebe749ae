package nodepool

import (
	"context"
	"errors"
	"sync"
)

// Generation is the time between two changes of a node.
type Generation struct {
	mu    sync.Mutex
	cause error // why the generation has ended, or nil
	waits map[*WaitContext]struct{}
}

func newGeneration() *Generation { return &Generation{waits: make(map[*WaitContext]struct{})} }

// end ends the generation and every context that is bound to it.
func (g *Generation) end(cause error) {
	g.mu.Lock()
	waits := g.waits
	g.cause, g.waits = cause, nil
	g.mu.Unlock()
	for w := range waits {
		w.End(cause)
	}
}

// WaitContext is a context that ends with another context, or with a generation. If it ends with the generation, its cause is a
// GenerationEndedError. A context.AfterFunc on a context for the generation would do the same, but takes more time and
// memory.
type WaitContext struct {
	context.Context
	End        context.CancelCauseFunc // ends the wait sooner
	generation *Generation
	Waiter     Waiter // the waiter, if it may go to another node while it waits; else nil
}

// Waiter waits for a connection of a node. It may look for another node as long as it has no connection.
type Waiter interface {
	// StopLooking is called when there is a connection for the waiter, which must then stay with this node.
	StopLooking()
}

func (w *WaitContext) stopLooking() {
	if w.Waiter != nil {
		w.Waiter.StopLooking()
	}
}

// Bind begins the wait, which ends with ctx or with the generation g. The caller must call Release in the end.
func (w *WaitContext) Bind(ctx context.Context, g *Generation) {
	w.Context, w.End = context.WithCancelCause(ctx)
	w.generation = g
	g.mu.Lock()
	cause := g.cause
	if cause == nil {
		g.waits[w] = struct{}{}
	}
	g.mu.Unlock()
	if cause != nil {
		w.End(cause)
	}
}

type waitKey struct{}

// Value returns the WaitContext itself for waitKey. So a hook finds it also in a context that has only its values.
func (w *WaitContext) Value(key any) any {
	if key == (waitKey{}) {
		return w
	}
	return w.Context.Value(key)
}

// Release ends the wait and unbinds it from its generation.
func (w *WaitContext) Release() {
	w.generation.mu.Lock()
	delete(w.generation.waits, w)
	w.generation.mu.Unlock()
	w.End(nil)
}

// GenerationEnd returns the GenerationEndedError of a wait that ended because its generation did, else nil.
func (w *WaitContext) GenerationEnd() error {
	if cause, ok := errors.AsType[*GenerationEndedError](context.Cause(w)); ok {
		return cause
	}
	return nil
}

// Waiters returns the waiters of the generation that may go to another node, in no order.
func (g *Generation) Waiters() (waiters []Waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range g.waits {
		if w.Waiter != nil {
			waiters = append(waiters, w.Waiter)
		}
	}
	return waiters
}

// Generation returns the current generation. A caller that first gets the generation and then checks the node learns of
// every later change, because that change ends the generation.
func (p *Pool) Generation() *Generation { return p.generation.Load() }

// Renew ends the current generation and begins the next one, because the node has changed.
func (p *Pool) Renew() {
	p.generation.Swap(newGeneration()).end(&GenerationEndedError{p.name})
}

// End ends the connections that are being made, and the current generation. No other generation follows. So a waiter that
// comes later finds it ended too. No guest may connect from now on. The caller must call Close afterwards.
func (p *Pool) End() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.generation.Load().end(&GenerationEndedError{p.name})
}
