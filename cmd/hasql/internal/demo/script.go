package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/pghasql/hasql/internal/workload"
)

const (
	calmTime   = 2 * time.Second  // before the first fault
	settleTime = time.Second      // between two changes of the cluster
	againTime  = 15 * time.Second // how long the demo waits for the application to write again
)

// played is one fault of the script. Times are durations since the start of the workload.
type played struct {
	fault     string
	old, next int // masters
	at, until time.Duration
}

// script causes one fault of the master after the other, and repairs the cluster after each.
type script struct {
	manager *failoverManager
	app     *application
}

func (s *script) play(ctx context.Context, o Options) (all []played, err error) {
	if err := workload.Sleep(ctx, calmTime); err != nil {
		return nil, err
	}
	for range o.Runs {
		for _, fault := range o.Faults {
			p, err := s.step(ctx, fault)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return all, nil
}

func (s *script) step(ctx context.Context, fault string) (p played, err error) {
	if err := workload.Sleep(ctx, settleTime); err != nil {
		return p, err
	}
	old, _ := s.manager.present()
	p = played{fault: fault, old: old, at: time.Since(s.app.began)}
	if err := s.manager.act(ctx, fault, old); err != nil {
		return p, err
	}
	p.next, _ = s.manager.present()
	if err := s.awaitApplication(ctx, p); err != nil {
		return p, err
	}
	var after []string
	switch fault {
	case actionCrash:
		after = []string{actionRepair}
	case actionFreeze:
		after = []string{actionThaw, actionRepair}
	}
	for _, action := range after {
		if err := workload.Sleep(ctx, settleTime); err != nil {
			return p, err
		}
		if err := s.manager.act(ctx, action, old); err != nil {
			return p, err
		}
	}
	if err := s.app.pm.Ready(ctx, 1, replicas); err != nil {
		return p, err
	}
	err = workload.Sleep(ctx, settleTime)
	p.until = time.Since(s.app.began)
	return p, err
}

// awaitApplication waits until the application writes to the new master, at most againTime. If it does not write, the result
// says so.
func (s *script) awaitApplication(ctx context.Context, p played) error {
	patience := time.NewTimer(againTime)
	defer patience.Stop()
	for {
		select {
		case o := <-s.app.reported:
			if o.After.Node == p.next && o.After.Done > p.at {
				return nil
			}
		case <-patience.C:
			s.app.screen.event(time.Now(), eventError, fmt.Sprintf("the application has not written for %v", againTime))
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
