package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// book is what the clients of all services did, and what they should not have seen.
type book struct {
	mu         sync.Mutex
	news       chan struct{} // closed and replaced by each operation
	done       map[*client]int
	ops        []op               // of this round
	missed     int                // reads of this round on a doubtful replica that lacked what they were promised
	claims     []*claim           // all writes
	reads      int                // answered
	promised   int                // of them, of what was known to be written
	audited    int                // so many of claims were compared with the history
	seen       map[change]*client // by readers, since the last audit
	touched    map[string]bool    // nodes that something happened to
	violations []string
	where      string // the round, for violations
	began      time.Time
}

// op is one finished operation.
type op struct {
	service string
	write   bool
	end     time.Time
	err     error
}

func newBook() *book {
	return &book{
		news: make(chan struct{}), done: make(map[*client]int), seen: make(map[change]*client),
		touched: make(map[string]bool), began: time.Now(),
	}
}

// turn begins a round. All operations of the last one have ended.
func (b *book) turn(where string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops, b.missed, b.where = nil, 0, where
}

// touch says that operations on a node may fail.
func (b *book) touch(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.touched[node] = true
}

// heal says that operations which begin from now on may not fail; the clients have all begun anew.
func (b *book) heal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.touched)
}

// finish takes note of an operation of a client on a node, "" if it is not known which.
func (b *book) finish(c *client, o op, node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops = append(b.ops, o)
	switch {
	case o.err == nil:
		b.done[c]++
	case node != "" && !b.touched[node]:
		b.accuseLocked("%s: failed on %s, to which nothing happened: %v", c, node, o.err)
	case len(b.touched) == 0:
		b.accuseLocked("%s: failed, though nothing happened to any node: %v", c, o.err)
	}
	close(b.news)
	b.news = make(chan struct{})
}

// claim takes note of a write.
func (b *book) claim(c *claim) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.claims = append(b.claims, c)
}

// see takes note of a version that a client has read, of a write perhaps that it was promised to see.
func (b *book) see(c *client, seen change, promised bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	if promised {
		b.promised++
	}
	if seen.version > 0 {
		b.seen[seen] = c
	}
}

// miss takes note of a read on a doubtful replica that lacked what it was promised.
func (b *book) miss() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missed++
}

// due returns what no audit has looked at yet.
func (b *book) due() (claims []*claim, seen map[change]*client) {
	b.mu.Lock()
	defer b.mu.Unlock()
	claims, seen = slices.Clone(b.claims[b.audited:]), maps.Clone(b.seen)
	b.audited = len(b.claims)
	clear(b.seen)
	return claims, seen
}

// sum says how much was done.
func (b *book) sum() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	writes := 0
	for _, c := range b.claims {
		if c.outcome == acknowledged {
			writes++
		}
	}
	return fmt.Sprintf("%d writes acknowledged, %d reads, %d of them of what was written", writes, b.reads, b.promised)
}

// accuse takes note of something that must not be.
func (b *book) accuse(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accuseLocked(format, args...)
}

func (b *book) accuseLocked(format string, args ...any) {
	b.violations = append(b.violations, fmt.Sprintf("%s, after %v: %s",
		b.where, time.Since(b.began).Round(time.Millisecond), fmt.Sprintf(format, args...)))
}

// accusations returns all that must not have been.
func (b *book) accusations() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.violations)
}

// longestGap returns the longest time between two successes that follow each other, of whichever clients.
func longestGap(ops []op, service string, write bool) (longest time.Duration) {
	var last time.Time
	ops = slices.SortedFunc(slices.Values(ops), func(a, b op) int { return a.end.Compare(b.end) })
	for _, o := range ops {
		if o.service != service || o.write != write || o.err != nil {
			continue
		}
		if !last.IsZero() {
			longest = max(longest, o.end.Sub(last))
		}
		last = o.end
	}
	return longest
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
