package main

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"
)

// figure is a number of milliseconds, or never, or none.
type figure float64

var (
	never = figure(math.Inf(1)) // it did not happen before the run ended
	none  = figure(math.NaN())  // the question makes no sense
)

func millis(d time.Duration) figure {
	return figure(math.Round(float64(d)/float64(time.Millisecond)*100) / 100)
}

func (f figure) isNone() bool { return math.IsNaN(float64(f)) }

func (f figure) String() string {
	switch {
	case f.isNone():
		return "-"
	case f == never:
		return "never"
	case f >= 100:
		return strconv.FormatFloat(float64(f), 'f', 0, 64)
	}
	return strconv.FormatFloat(float64(f), 'f', 1, 64)
}

// MarshalJSON implements json.Marshaler: never is "never", and none is null.
func (f figure) MarshalJSON() ([]byte, error) {
	switch {
	case f.isNone():
		return []byte("null"), nil
	case f == never:
		return []byte(`"never"`), nil
	}
	return json.Marshal(float64(f))
}

// spreadOf returns the median, least and greatest of values; zero if there are none. Never is the greatest of all.
func spreadOf[T cmp.Ordered](values []T) (median, least, greatest T) {
	if len(values) == 0 {
		return median, least, greatest
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1] // the upper of two: no better than it was
}
