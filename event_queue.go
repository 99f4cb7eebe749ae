package hasql

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// announcement is one event for the log and the hooks.
type announcement struct {
	what     topic
	old, new NodeState // of a node, or of the master
	gap      time.Duration
	err      error     // of discovery
	seen     *Snapshot // of a reminder
	outage   *outage   // that is over
}

type topic uint8

const (
	nodeJoined topic = iota
	nodeLeft
	nodeProbed
	nodeChanged
	nodeFailed
	masterChanged
	masterMissing
	outageOver
	poolerFound
	probeLimited
	discoveryChanged
	pauseExpired
)

// follows reports whether a and b are about the same thing, so that a can be merged into b.
func (a *announcement) follows(b *announcement) bool {
	return a.what == b.what && (a.what == masterChanged || a.new.Name == b.new.Name)
}

// void reports whether a merged announcement ends in the state where it began. A master that was lost and found again is
// still announced.
func (a *announcement) void() bool {
	switch a.what {
	case nodeChanged:
		return a.old.Role == a.new.Role && a.old.Status == a.new.Status
	case masterChanged:
		return a.old.Name == "" && a.new.Name == ""
	}
	return false
}

// maxWaiting is how many announcements of changes may wait, and how many of probes. Beyond that a change is merged with
// the last waiting change of the same node or topic, and a probe is left out of the log.
const maxWaiting = 1000

// eventQueue announces what is added to it, one event after the other. add never waits. The length is bounded: maxWaiting
// for changes, maxWaiting for probes, and one more for each node and topic.
type eventQueue struct {
	mu     sync.Mutex
	queue  []*announcement
	probes int // of queue
	merged int // changes that were merged since the last warning
	unsaid int // probes that were left out since the last warning
	closed bool
	wake   chan struct{} // capacity 1
}

func newEventQueue() *eventQueue { return &eventQueue{wake: make(chan struct{}, 1)} }

func (q *eventQueue) add(a announcement) {
	q.mu.Lock()
	q.addLocked(&a)
	q.mu.Unlock()
	q.signal()
}

func (q *eventQueue) addLocked(a *announcement) {
	switch {
	case a.what == nodeProbed && q.probes == maxWaiting:
		q.unsaid++
		return
	case a.what == nodeProbed:
		q.probes++
	case len(q.queue)-q.probes >= maxWaiting && q.mergeLocked(a):
		return
	}
	q.queue = append(q.queue, a)
}

// mergeLocked merges a into the last waiting announcement that it follows: the old state stays, the rest is a's. It
// returns false if there is no such announcement.
func (q *eventQueue) mergeLocked(a *announcement) bool {
	for _, b := range slices.Backward(q.queue) {
		if a.follows(b) {
			old := b.old
			*b = *a
			b.old = old
			q.merged++
			return true
		}
	}
	return false
}

// close lets run return after it has announced everything that was added before.
func (q *eventQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *eventQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) run(tell func(*announcement), log *zap.Logger) {
	for range q.wake {
		for a := q.next(log); a != nil; a = q.next(log) {
			recovered(tell, a, log)
		}
		if q.done() {
			return
		}
	}
}

// next takes the first announcement, or returns nil. It logs a warning if announcements were merged or left out.
func (q *eventQueue) next(log *zap.Logger) (a *announcement) {
	q.mu.Lock()
	a = q.takeLocked()
	for a != nil && a.void() {
		q.merged++
		a = q.takeLocked()
	}
	merged, unsaid := q.merged, q.unsaid
	q.merged, q.unsaid = 0, 0
	q.mu.Unlock()
	if merged+unsaid > 0 {
		log.Warn("a hook or the log is too slow: changes were merged, and probes were left out of the log",
			zap.Int("changes", merged), zap.Int("probes", unsaid))
	}
	return a
}

func (q *eventQueue) takeLocked() *announcement {
	if len(q.queue) == 0 {
		return nil
	}
	a := q.queue[0]
	q.queue[0], q.queue = nil, q.queue[1:]
	if a.what == nodeProbed {
		q.probes--
	}
	return a
}

// done reports whether no announcement will come any more.
func (q *eventQueue) done() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.queue) == 0
}

// recovered calls tell. A panic in a hook is logged and does not end the process.
func recovered(tell func(*announcement), a *announcement, log *zap.Logger) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("hook panicked", zap.Any("panic", r), zap.Stack("stack"))
		}
	}()
	tell(a)
}
