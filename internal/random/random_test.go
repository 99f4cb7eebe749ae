package random

import (
	"math"
	"testing"
	"time"
)

func TestDrawsStayWithinTheirBounds(t *testing.T) {
	for _, test := range []struct {
		drawn    uint64
		fraction float64
		below    uint32 // 3
		jittered time.Duration
	}{
		{0, 0, 0, 900 * time.Millisecond},
		{1 << 63, 0.5, 1, time.Second},
		{math.MaxUint64, 1 - 1.0/(1<<53), 2, 1100 * time.Millisecond},
	} {
		restore := Replace(func() uint64 { return test.drawn })
		if got := Fraction(); got != test.fraction || got >= 1 {
			t.Errorf("Fraction of %d: %v", test.drawn, got)
		}
		if got := Below(3); got != test.below {
			t.Errorf("Below of %d: %d", test.drawn, got)
		}
		if got := Jittered(time.Second); (got - test.jittered).Abs() > time.Nanosecond {
			t.Errorf("Jittered of %d: %v", test.drawn, got)
		}
		restore()
	}
	if a, b, c := source(), source(), source(); a == b && b == c {
		t.Error("the random source is not back")
	}
}
