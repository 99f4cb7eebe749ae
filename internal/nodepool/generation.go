package nodepool

import (
	"context"
	"errors"
	"sync"
)

// Generation is the time between two changes of a node.
type Generation struct {
	mu    sync.Mutex
	over  error // why the generation has ended, or nil
	waits map[*Wait]struct{}
}

func newGeneration() *Generation { return &Generation{waits: make(map[*Wait]struct{})} }

// end ends the generation and every context that is bound to it.
func (g *Generation) end(cause error) {
	g.mu.Lock()
	waits := g.waits
	g.over, g.waits = cause, nil
	g.mu.Unlock()
	for w := range waits {
		w.End(cause)
	}
}

// Wait is a context that ends with another context, or with a generation. In the second case its cause is a
// GenerationEndedError. A context.AfterFunc on a context for the generation would do the same, but takes more time and
// memory.
type Wait struct {
	context.Context
	End        context.CancelCauseFunc // ends the wait sooner
	generation *Generation
	Holder     Holder // the waiter, if it may go to another node meanwhile; else nil
}

// Holder is a waiter for a connection. It may go to another node as long as it has no connection.
type Holder interface {
	// Keep is called when there is a connection for the waiter.
	Keep()
}

func (w *Wait) keep() {
	if w.Holder != nil {
		w.Holder.Keep()
	}
}

// Bind begins the wait, which ends with ctx or with the generation g. The caller must call Release in the end.
func (w *Wait) Bind(ctx context.Context, g *Generation) {
	w.Context, w.End = context.WithCancelCause(ctx)
	w.generation = g
	g.mu.Lock()
	over := g.over
	if over == nil {
		g.waits[w] = struct{}{}
	}
	g.mu.Unlock()
	if over != nil {
		w.End(over)
	}
}

type waitKey struct{}

// Value makes a context recognizable as a Wait, also if only its values are passed on.
func (w *Wait) Value(key any) any {
	if key == (waitKey{}) {
		return w
	}
	return w.Context.Value(key)
}

// Release ends the wait.
func (w *Wait) Release() {
	w.generation.mu.Lock()
	delete(w.generation.waits, w)
	w.generation.mu.Unlock()
	w.End(nil)
}

// GenerationEnd returns the GenerationEndedError of a wait that ended because its generation did, else nil.
func (w *Wait) GenerationEnd() error {
	if cause, ok := errors.AsType[*GenerationEndedError](context.Cause(w)); ok {
		return cause
	}
	return nil
}

// Holders returns the waiters of the generation that may go to another node, in no order.
func (g *Generation) Holders() (holders []Holder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range g.waits {
		if w.Holder != nil {
			holders = append(holders, w.Holder)
		}
	}
	return holders
}

// Generation returns the current generation. A caller that first gets the generation and then checks the node learns of
// every later change, because that change ends the generation.
func (n *Pool) Generation() *Generation { return n.generation.Load() }

// Renew ends the current generation and begins the next one, because the node has changed.
func (n *Pool) Renew() {
	n.generation.Swap(newGeneration()).end(&GenerationEndedError{n.name})
}

// End ends the connections that are being made, and the last generation. No generation follows it, so a late waiter finds
// it ended too. No guest is let in from now on. Close must follow.
func (n *Pool) End() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.stop()
	n.generation.Load().end(&GenerationEndedError{n.name})
}
