package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestBinsCountByTheNodeWhoDidIt(t *testing.T) {
	t.Parallel()
	ops := []op{
		wrote(1, -lead-1, 0),    // before the picture
		wrote(2, -lead, 0),      // its first moment
		wrote(3, 0, 0),          // the fault
		wrote(4, 9*ms, 2),       // the same 10 ms
		wrote(5, 10*ms, 1),      // the next
		wrote(6, 19*ms, 1),      //
		wrote(7, 15*ms, nobody), //
		answered(1, 15*ms, 1),   // no write
		wrote(8, 100*ms, 1),     // beyond the end
	}
	got := bins(ops, true, 100*ms)
	zero := int(lead / binWidth)
	want := map[int]bin{0: {1, 0, 0, 0}, zero: {1, 0, 1, 0}, zero + 1: {0, 2, 0, 1}}
	if len(got) != zero+10 {
		t.Fatalf("%d bins", len(got))
	}
	for i, b := range got {
		if b != want[i] {
			t.Errorf("bin %d: %v, want %v", i, b, want[i])
		}
	}
}

func TestDrawingIsWellFormedAndTellsEverything(t *testing.T) {
	t.Parallel()
	slow := op{client: 1, start: 10 * ms, end: 200 * ms, node: nobody}
	rec := crashed(wrote(1, -1*ms, 0), wrote(2, 350*ms, 1), slow)
	r := result{Fault: "crash", Subject: "<hasql> & co", Run: 1}
	r.fill(rec)
	text := drawing(r, rec)
	decoder := xml.NewDecoder(strings.NewReader(text))
	var shown strings.Builder
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if words, ok := token.(xml.CharData); ok {
			shown.Write(words)
		}
	}
	for _, want := range []string{"<hasql> & co", "ok on n1", "ok on n3", "failed", "fault, 0 ms", "accepting, 340 ms", "0.5 s"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("%q is not shown", want)
		}
	}
	for _, fill := range []string{fillOf(0), fillOf(1), fillOf(nobody)} {
		if strings.Count(text, `<path fill="`+fill) != 1 {
			t.Errorf("no stack in %s", fill)
		}
	}
	if strings.Count(text, "fill-opacity") != 1 {
		t.Error("the slow operation has no bar of its own")
	}
}
