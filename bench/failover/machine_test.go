package main

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestMachineAtRestHasNoStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stop := watchMachine()
		time.Sleep(time.Minute) // the clock of the bubble
		if got := stop(); got != 0 {
			t.Errorf("got %v", got)
		}
	})
}
