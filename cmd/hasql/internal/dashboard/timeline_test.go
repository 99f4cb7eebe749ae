package dashboard

import (
	"encoding/json"
	"testing"
	"time"
)

func encoded(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestOperationsAreCountedWhenTheyFinish(t *testing.T) {
	t.Parallel()
	b := NewBins(2)
	b.Write(0, 0)
	b.Write(BinWidth-1, 0)
	b.Write(BinWidth, 1)
	b.Read(BinWidth, 0)
	b.Write(3*BinWidth, Nobody)
	b.Read(3*BinWidth, Nobody)
	b.Write(BinWidth-1, 1) // a little late
	b.Advance(4 * BinWidth)
	// The writes by node, the reads by node, and the failures of both.
	const want = `{"first":0,"width_ms":20,"bins":[[2,1,0,0,0,0],[0,1,1,0,0,0],[0,0,0,0,0,0],[0,0,0,0,1,1],[0,0,0,0,0,0]]}`
	if got := encoded(t, b.From(0)); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	if got := encoded(t, b.From(3)); got != `{"first":3,"width_ms":20,"bins":[[0,0,0,0,1,1],[0,0,0,0,0,0]]}` {
		t.Errorf("from 3: %s", got)
	}
	if got := encoded(t, b.From(9)); got != `{"first":9,"width_ms":20,"bins":[]}` {
		t.Errorf("from 9: %s", got)
	}
}

func TestOldBinsAreDropped(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*Bins){
		"little by little": func(b *Bins) {
			for i := range keptBins + 10 {
				b.Write(time.Duration(i)*BinWidth, 0)
			}
		},
		"after a long silence": func(b *Bins) {
			b.Write(0, 0)
			b.Write(time.Duration(keptBins+9)*BinWidth, 0)
		},
	}
	for name, fill := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := NewBins(1)
			fill(b)
			b.Write(0, 0) // far too late
			got := b.From(0)
			if got.First != 10 || len(got.Bins) != keptBins || got.Bins[keptBins-1].Writes[0] != 1 {
				t.Errorf("%d bins from %d", len(got.Bins), got.First)
			}
		})
	}
}

func TestBinsThatAreGivenAwayDoNotChange(t *testing.T) {
	t.Parallel()
	b := NewBins(1)
	b.Write(0, 0)
	got := b.From(0)
	b.Write(0, 0)
	if n := got.Bins[0].Writes[0]; n != 1 {
		t.Errorf("counts %d now", n)
	}
}
