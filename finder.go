package hasql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghasql/hasql/discovery"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

const (
	// discoveryPause is the least time between two requests to the Discoverer.
	discoveryPause = time.Second
	// discoverySpread limits the random pause before a request that follows the loss of a node: all clients lose it at the
	// same time.
	discoverySpread = 100 * time.Millisecond
	// discoveryTimeout is the shortest time limit of one request. Within it several URLs of Patroni may be tried, one after
	// another.
	discoveryTimeout = 30 * time.Second
)

// finder makes the members of the cluster follow a Discoverer.
type finder struct {
	pm       *PoolManager
	source   Discoverer
	interval time.Duration
	urgent   chan struct{} // capacity 1: a request is wanted now

	failing string // the error of the last request, "" if it succeeded
}

func newFinder(pm *PoolManager) *finder {
	return &finder{pm: pm, source: pm.config.Discoverer, interval: pm.config.DiscoveryInterval, urgent: make(chan struct{}, 1)}
}

// hurry asks for a request now, because a node was lost. It never blocks.
func (f *finder) hurry() {
	if f == nil {
		return
	}
	select {
	case f.urgent <- struct{}{}:
	default:
	}
}

// run asks until ctx ends: at once, every interval, and more often while something is wrong.
func (f *finder) run(ctx context.Context) {
	watched := f.watch(ctx)
	var asked, regular, next time.Time // when the last answer came, when the next question is due if all is well, and when it is due
	round := 0                         // counts the requests since all was well
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-watched:
			f.take(ctx, a)
		case <-f.urgent:
			pause := max(0, time.Until(asked.Add(discoveryPause)))
			soon := time.Now().Add(pause + time.Duration(random.Fraction()*float64(discoverySpread)))
			if round = 0; soon.Before(next) {
				next = soon
			}
		case now := <-timer.C:
			if !now.Before(regular) || f.troubled() {
				f.take(ctx, f.ask(ctx))
				asked = time.Now()
				regular = asked.Add(random.Jittered(f.interval))
				again := random.Jittered(backedOff(discoveryPause, round, f.interval))
				next = asked.Add(min(max(again, discoveryPause), regular.Sub(asked)))
				round++
			} else {
				round, next = 0, regular
			}
		}
		timer.Reset(time.Until(next))
	}
}

// troubled reports whether the list of nodes may be out of date: there is no master, or a node cannot be used.
func (f *finder) troubled() bool {
	s := f.pm.cluster.snapshot()
	if s.hunting() {
		return true
	}
	for i := range s.nodes {
		if n := &s.nodes[i]; !n.unlisted && !n.Status.reachable() {
			return true
		}
	}
	return false
}

// discovered is the result of one request.
type discovered struct {
	list []Endpoint
	err  error
}

func (f *finder) ask(ctx context.Context) (a discovered) {
	ctx, cancel := context.WithTimeout(ctx, max(f.interval, discoveryTimeout))
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			a = discovered{err: fmt.Errorf("hasql: the Discoverer panicked: %v", r)}
		}
	}()
	a.list, a.err = f.source.Discover(ctx)
	return a
}

// watch returns the lists of a Watcher, nil if the Discoverer is no Watcher.
func (f *finder) watch(ctx context.Context) <-chan discovered {
	source, ok := f.source.(Watcher)
	if !ok {
		return nil
	}
	answers := make(chan discovered)
	tell := func(a discovered) bool {
		select {
		case answers <- a:
			return true
		case <-ctx.Done():
			return false
		}
	}
	f.pm.running.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				tell(discovered{err: fmt.Errorf("hasql: the Watcher panicked: %v", r)})
			}
		}()
		for list, err := range source.Watch(ctx) {
			if !tell(discovered{list, err}) {
				return
			}
		}
	})
	return answers
}

// take makes the nodes follow a list, or records and reports the error.
func (f *finder) take(ctx context.Context, a discovered) {
	err := a.err
	if err == nil {
		err = f.follow(ctx, a.list)
	}
	if ctx.Err() != nil {
		return // the PoolManager is closing
	}
	stat, reason := *f.pm.cluster.discovery.Load(), ""
	if err == nil {
		stat.LastSuccess = time.Now()
	} else {
		err = pgerr.Redacted(err)
		stat.LastFailure, stat.LastError, reason = time.Now(), err, err.Error()
	}
	f.pm.cluster.discovery.Store(&stat)
	if reason != f.failing {
		f.failing = reason
		f.pm.reporter.queue.add(announcement{what: discoveryChanged, err: err})
	}
}

func (f *finder) follow(ctx context.Context, found []Endpoint) error {
	found, err := discovery.Normalize(found)
	if err != nil {
		return fmt.Errorf("hasql: discovery: %w", err)
	}
	listed := make([]listedNode, len(found))
	for i, e := range found {
		listed[i] = f.pm.config.listedNodeOf(e)
	}
	if err := f.pm.setMembers(ctx, listed); err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("hasql: discovery: %w", err)
	}
	return nil
}
