// Package human writes figures for people to read.
package human

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Duration writes d with two or three digits and the units that fit: 0.42 ms, 3.2 s, 4 min 5 s, 2 d 3 h.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d == 0:
		return "0 s"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d/time.Millisecond)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d %d h", d/day, d%day/time.Hour)
}

// Limit writes a duration that is a whole number of seconds or milliseconds: 1 s, 100 ms.
func Limit(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return fmt.Sprintf("%d ms", d/time.Millisecond)
}

// Millis is a duration that people and JSON read in milliseconds, so that several of them can be compared: 6.3 ms, 351 ms.
type Millis time.Duration

// String writes m with one decimal below 100 ms and without decimals from there on.
func (m Millis) String() string { return Milliseconds(m.Rounded()) + " ms" }

// MarshalJSON writes the milliseconds with one decimal.
func (m Millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, m.Rounded(), 'f', -1, 64), nil
}

// Rounded returns the milliseconds with one decimal.
func (m Millis) Rounded() float64 {
	return math.Round(float64(m)/float64(time.Millisecond)*10) / 10
}

// Milliseconds writes a number of milliseconds as [Millis] does, without the unit.
func Milliseconds(ms float64) string {
	if ms >= 100 {
		return strconv.FormatFloat(ms, 'f', 0, 64)
	}
	return strconv.FormatFloat(ms, 'f', 1, 64)
}

// Count writes how many there are of what: 1 master, 2 masters.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Bytes writes n in powers of 1024: 812 B, 1.5 KiB, 16.0 MiB.
func Bytes(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}
