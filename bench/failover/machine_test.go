package main

import (
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/testenv"
)

func TestMachineAtRestHasNoStall(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		stop := watchMachine()
		time.Sleep(time.Minute) // the clock of the bubble
		if got := stop(); got != 0 {
			t.Errorf("got %v", got)
		}
	})
}
