package hasql

import "math/rand/v2"

// entropy is where every draw of the package comes from: jitter, shares, pickers. A simulation puts a seeded source in
// its place, before there is any PoolManager, so that a run can be had again.
var entropy = rand.Uint64

// fraction draws from [0, 1).
func fraction() float64 { return float64(entropy()>>11) / (1 << 53) }

// below draws from 0 to n-1. The bias of the multiplication is one part in 2³²: nothing next to what a picker evens out.
func below(n uint32) uint32 { return uint32(entropy() >> 32 * uint64(n) >> 32) }
