package main

import "time"

// watchMachine notices when this process does not get to run, because the machine has too much to do: a time for which
// no subject is to blame. stop returns the longest since the call, and may be called once.
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
