package main

import "time"

// watchMachine measures how long this process does not get to run because the machine is too busy. No subject is to blame for
// that time. stop returns the longest such time since the call. It may be called once.
func watchMachine() (stop func() time.Duration) {
	const beat = time.Millisecond
	ended, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		ticker := time.NewTicker(beat)
		defer ticker.Stop()
		var most time.Duration
		for last := time.Now(); ; {
			select {
			case <-ticker.C:
				now := time.Now()
				most = max(most, now.Sub(last)-beat)
				last = now
			case <-ended:
				longest <- most
				return
			}
		}
	}()
	return func() time.Duration {
		close(ended)
		return <-longest
	}
}
