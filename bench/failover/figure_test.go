package main

import (
	"encoding/json"
	"testing"
	"time"
)

func TestFigureShowsWhatItMeans(t *testing.T) {
	t.Parallel()
	tests := []struct {
		figure     figure
		text, json string
	}{
		{millis(351234 * time.Microsecond), "351", "351.23"},
		{millis(8640 * time.Microsecond), "8.6", "8.64"},
		{0, "0.0", "0"},
		{never, "never", `"never"`},
		{none, "-", "null"},
	}
	for _, test := range tests {
		got, err := json.Marshal(test.figure)
		if err != nil || string(got) != test.json || test.figure.String() != test.text {
			t.Errorf("%v: text %q, JSON %s, %v; want %q, %s", float64(test.figure), test.figure, got, err, test.text, test.json)
		}
	}
}
