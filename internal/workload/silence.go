package workload

import (
	"cmp"
	"slices"
	"time"
)

// Silence measures the longest time that a client was without an answer.
type Silence struct {
	last, longest time.Duration
}

// SilenceFrom returns a Silence that begins at a time.
func SilenceFrom(at time.Duration) Silence { return Silence{last: at} }

// End records an answer. An answer earlier than the last one changes nothing.
func (s *Silence) End(at time.Duration) {
	s.longest = max(s.longest, at-s.last)
	s.last = max(s.last, at)
}

// Longest returns the longest time without an answer. The time since the last answer counts too.
func (s *Silence) Longest(now time.Duration) time.Duration { return max(s.longest, now-s.last) }

// LongestEnded returns the longest time without an answer that an answer has ended.
func (s *Silence) LongestEnded() time.Duration { return s.longest }

// Spread returns the median, the least and the greatest of values, and zeros if there are none. Of the two values in the
// middle, the greater one is the median: a figure is no better than it was.
func Spread[T cmp.Ordered](values []T) (median, least, greatest T) {
	if len(values) == 0 {
		return median, least, greatest
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1]
}
