package testenv

import (
	"runtime"
	"testing"
	"testing/synctest"
)

// Bubble runs a test in virtual time: it is [synctest.Test], on one processor while the race detector is on. The test must
// not be parallel.
//
// With several processors Go 1.26 runs timers of one bubble at the same time, and gives the race detector one and the same
// stack for them. The detector then crashes: https://go.dev/issue/78156.
func Bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if raceEnabled {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, test)
}
