package main

import (
	"encoding/json"
	"math"
	"time"

	"github.com/pghasql/hasql/internal/human"
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
	}
	return human.Milliseconds(float64(f))
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
