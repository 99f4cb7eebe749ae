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

func TestSpreadNeverFlatters(t *testing.T) {
	t.Parallel()
	tests := []struct {
		values               []figure
		median, least, worst figure
	}{
		{nil, 0, 0, 0},
		{[]figure{7}, 7, 7, 7},
		{[]figure{9, 3}, 9, 3, 9},
		{[]figure{5, never, 4, 2, 3}, 4, 2, never},
		{[]figure{never, 2, never}, never, 2, never},
	}
	for _, test := range tests {
		median, least, worst := spreadOf(test.values)
		if median != test.median || least != test.least || worst != test.worst {
			t.Errorf("%v: got %v, %v, %v", test.values, median, least, worst)
		}
	}
}
