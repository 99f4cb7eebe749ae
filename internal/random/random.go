// Package random is where every draw of the library comes from: jitter, shares, pickers.
package random

import (
	"math/rand/v2"
	"time"
)

var source = rand.Uint64

// Replace puts another source in the place of the random one, until restore is called. Nothing may draw while either runs. A
// simulation seeds the library so, to have a run again.
func Replace(other func() uint64) (restore func()) {
	previous := source
	source = other
	return func() { source = previous }
}

// Fraction draws from [0, 1).
func Fraction() float64 { return float64(source()>>11) / (1 << 53) }

// Below draws from 0 to n-1. The bias of the multiplication is one part in 2³²: nothing next to what a picker evens out.
func Below(n uint32) uint32 { return uint32(source() >> 32 * uint64(n) >> 32) }

// Jittered spreads d by ±10 %, so that many clients do not act in step.
func Jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*Fraction()))
}
