package human

import (
	"math"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                         "0 s",
		420 * time.Microsecond:    "0.42 ms",
		9994 * time.Microsecond:   "9.99 ms",
		10 * time.Millisecond:     "10 ms",
		999 * time.Millisecond:    "999 ms",
		time.Second:               "1.0 s",
		3270 * time.Millisecond:   "3.2 s",
		59999 * time.Millisecond:  "59 s",
		245 * time.Second:         "4 min 5 s",
		3*time.Hour + time.Minute: "3 h 1 min",
		51 * time.Hour:            "2 d 3 h",
		-2 * time.Second:          "-2.0 s",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestMillis(t *testing.T) {
	for d, want := range map[time.Duration][2]string{
		0:                        {"0.0 ms", "0"},
		6340 * time.Microsecond:  {"6.3 ms", "6.3"},
		99940 * time.Microsecond: {"99.9 ms", "99.9"},
		99960 * time.Microsecond: {"100 ms", "100"},
		351 * time.Millisecond:   {"351 ms", "351"},
		5011 * time.Millisecond:  {"5011 ms", "5011"},
	} {
		m := Millis(d)
		if text := m.String(); text != want[0] {
			t.Errorf("%v: %q, want %q", d, text, want[0])
		}
		if json, err := m.MarshalJSON(); err != nil || string(json) != want[1] {
			t.Errorf("%v: %s, %v, want %s", d, json, err, want[1])
		}
	}
}

func TestLimit(t *testing.T) {
	for d, want := range map[time.Duration]string{time.Second: "1 s", 100 * time.Millisecond: "100 ms", 90 * time.Second: "90 s"} {
		if got := Limit(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0:              "0 B",
		1023:           "1023 B",
		1536:           "1.5 KiB",
		16 << 20:       "16.0 MiB",
		math.MaxUint64: "16.0 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 masters", 1: "1 master", 2: "2 masters"} {
		if got := Count(n, "master"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
