package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pghasql/hasql/internal/workload"
)

// recorder records what the clients of all services did, and every violation of a promise.
type recorder struct {
	mu         sync.Mutex
	changed    chan struct{} // closed and replaced by each operation
	done       map[*client]int
	ops        []op               // of this round
	missed     int                // reads of this round that a doubtful replica answered without the promised version
	claims     []*claim           // all writes
	reads      int                // answered
	promised   int                // of them, reads that were promised to see a known write
	audited    int                // number of claims that were compared with the history
	seen       map[change]*client // versions that readers have seen since the last audit
	affected   map[string]bool    // nodes that a fault affects; operations on them may fail
	violations []string
	round      string // its name, for violations
	began      time.Time
}

// op is one finished operation.
type op struct {
	service string
	write   bool
	end     time.Time
	err     error
}

func newRecorder() *recorder {
	return &recorder{
		changed: make(chan struct{}), done: make(map[*client]int), seen: make(map[change]*client),
		affected: make(map[string]bool), began: time.Now(),
	}
}

// beginRound forgets the operations of the last round, which have all ended.
func (r *recorder) beginRound(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops, r.missed, r.round = nil, 0, name
}

// expectErrors allows operations on a node to fail.
func (r *recorder) expectErrors(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.affected[node] = true
}

// expectNoErrors forbids failures again. Every operation from before has ended.
func (r *recorder) expectNoErrors() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.affected)
}

// addOperation records a finished operation of a client. node is "" if the client does not know the node.
func (r *recorder) addOperation(c *client, o op, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
	switch {
	case o.err == nil:
		r.done[c]++
	case node != "" && !r.affected[node]:
		r.addViolationLocked("%s: failed on %s, which no fault affects: %v", c, node, o.err)
	case len(r.affected) == 0:
		r.addViolationLocked("%s: failed, though no fault affects any node: %v", c, o.err)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// addClaim records a write.
func (r *recorder) addClaim(c *claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claims = append(r.claims, c)
}

// addRead records a version that a client has read. promised says that the client was promised to see a known write.
func (r *recorder) addRead(c *client, seen change, promised bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if promised {
		r.promised++
	}
	if seen.version > 0 {
		r.seen[seen] = c
	}
}

// addMissedRead records a read that a doubtful replica answered without the promised version.
func (r *recorder) addMissedRead() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed++
}

// unaudited returns the writes and reads since the last audit.
func (r *recorder) unaudited() (claims []*claim, seen map[change]*client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	claims, seen = slices.Clone(r.claims[r.audited:]), maps.Clone(r.seen)
	r.audited = len(r.claims)
	clear(r.seen)
	return claims, seen
}

// summary counts the writes and reads of the whole run.
func (r *recorder) summary() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	writes := 0
	for _, c := range r.claims {
		if c.outcome == acknowledged {
			writes++
		}
	}
	return fmt.Sprintf("%d writes acknowledged, %d reads, %d of them with a promise to see a write", writes, r.reads, r.promised)
}

// addViolation records a violation of a promise.
func (r *recorder) addViolation(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addViolationLocked(format, args...)
}

func (r *recorder) addViolationLocked(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf("%s, after %v: %s",
		r.round, time.Since(r.began).Round(time.Millisecond), fmt.Sprintf(format, args...)))
}

// allViolations returns every violation so far.
func (r *recorder) allViolations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.violations)
}

// longestGap returns the longest time between two successive successes of a service, whichever of its clients had them.
func longestGap(ops []op, service string, write bool) time.Duration {
	var successes []time.Time
	for _, o := range ops {
		if o.service == service && o.write == write && o.err == nil {
			successes = append(successes, o.end)
		}
	}
	slices.SortFunc(successes, time.Time.Compare)
	var silence workload.Silence
	for _, at := range successes {
		silence.End(at.Sub(successes[0]))
	}
	return silence.LongestEnded()
}

// failures counts failed operations.
func failures(ops []op, write bool) (n int) {
	for _, o := range ops {
		if o.write == write && o.err != nil {
			n++
		}
	}
	return n
}
