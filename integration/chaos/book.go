package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pghasql/hasql"
)

// book is what the clients of all services did, and what they should not have seen.
type book struct {
	mu         sync.Mutex
	news       chan struct{} // closed and replaced by each operation
	done       map[*client]int
	ops        []op // of this round
	acked      []int64
	checked    int // so many of acked are known to be on the master
	touched    map[string]bool
	violations []string
	where      string // the round, for violations
	began      time.Time
}

// op is one finished operation.
type op struct {
	service string
	write   bool
	end     time.Time
	err     error // what became of a write that failed is unknown
}

func newBook() *book {
	return &book{news: make(chan struct{}), done: make(map[*client]int), touched: make(map[string]bool), began: time.Now()}
}

// turn begins a round. Operations begin in one round and end in the next, so what was touched in the last one may fail in
// this one too; the caller says so where it is not true any more.
func (b *book) turn(where string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops, b.where = nil, where
}

// touch says that operations on a node may fail.
func (b *book) touch(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.touched[node] = true
}

// heal says that operations on a node which begin from now on may not fail; the clients have all begun anew.
func (b *book) heal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.touched)
}

// finish takes note of an operation of a client: id is that of an acknowledged write, node the one that was to do it.
func (b *book) finish(c *client, o op, id int64, node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops = append(b.ops, o)
	switch {
	case o.err == nil:
		b.done[c]++
		if o.write {
			b.acked = append(b.acked, id)
		}
	case node == "":
		b.accuseLocked("%s: no connection: %v", c, o.err)
	case !b.touched[node]:
		b.accuseLocked("%s: failed on %s, to which nothing happened: %v", c, node, o.err)
	}
	close(b.news)
	b.news = make(chan struct{})
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

// misled says whether an acquire led to a node that was not in this role, as its PoolManager knew: the snapshots from
// before and after the acquire say so, and that nothing changed in between.
func misled(before, after hasql.NodeState, role hasql.Role) bool {
	return before.Role != role && after.Role == before.Role && after.Status == before.Status && after.Since.Equal(before.Since)
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
