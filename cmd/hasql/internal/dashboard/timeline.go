package dashboard

import (
	"encoding/json"
	"time"
)

// BinWidth is the time that one bin of the timeline counts.
const BinWidth = 20 * time.Millisecond

// keptBins is the length of the timeline: one minute.
const keptBins = int(time.Minute / BinWidth)

// Bin counts the operations that finished within one BinWidth.
type Bin struct {
	Writes, Reads             []int // by node
	FailedWrites, FailedReads int
}

// MarshalJSON writes the writes of each node, the reads of each node, and the failed writes and reads, all in one list.
func (b Bin) MarshalJSON() ([]byte, error) {
	list := make([]int, 0, len(b.Writes)+len(b.Reads)+2)
	list = append(append(list, b.Writes...), b.Reads...)
	return json.Marshal(append(list, b.FailedWrites, b.FailedReads))
}

// Timeline is a run of bins.
type Timeline struct {
	First int    `json:"first"` // number of the first bin, which began First × Width after the start of the workload
	Width Millis `json:"width_ms"`
	Bins  []Bin  `json:"bins"`
}

// Bins counts operations by the time when they finished. Make one with NewBins.
type Bins struct {
	nodes int
	first int // number of kept[0]
	kept  []Bin
}

// NewBins returns empty bins for a cluster of the given number of nodes.
func NewBins(nodes int) *Bins { return &Bins{nodes: nodes} }

// Nobody stands for the node of an operation that failed.
const Nobody = -1

// Write counts a write that node acknowledged. If node is Nobody, the write failed.
func (b *Bins) Write(at time.Duration, node int) {
	if bin := b.at(at); bin == nil {
		return
	} else if node == Nobody {
		bin.FailedWrites++
	} else {
		bin.Writes[node]++
	}
}

// Read counts a read that node answered. If node is Nobody, the read failed.
func (b *Bins) Read(at time.Duration, node int) {
	if bin := b.at(at); bin == nil {
		return
	} else if node == Nobody {
		bin.FailedReads++
	} else {
		bin.Reads[node]++
	}
}

// at returns the bin for a time, and nil if the time is too long ago.
func (b *Bins) at(at time.Duration) *Bin {
	number := int(at / BinWidth)
	b.Advance(at)
	if number < b.first {
		return nil
	}
	return &b.kept[number-b.first]
}

// Advance adds empty bins up to a time, so that a period without operations shows too.
func (b *Bins) Advance(to time.Duration) {
	last := int(to / BinWidth)
	if skipped := last - keptBins + 1; skipped > b.first+len(b.kept) {
		b.first, b.kept = skipped, nil // all bins that were kept are too old now
	}
	for b.first+len(b.kept) <= last {
		counts := make([]int, 2*b.nodes)
		b.kept = append(b.kept, Bin{Writes: counts[:b.nodes], Reads: counts[b.nodes:]})
	}
	if surplus := len(b.kept) - keptBins; surplus > 0 {
		b.first, b.kept = b.first+surplus, b.kept[surplus:]
	}
}

// From returns copies of the kept bins from a number on.
func (b *Bins) From(number int) Timeline {
	number = max(number, b.first)
	t := Timeline{First: number, Width: Millis(BinWidth), Bins: []Bin{}}
	for i := number; i < b.first+len(b.kept); i++ {
		bin := b.kept[i-b.first]
		bin.Writes = append([]int(nil), bin.Writes...)
		bin.Reads = append([]int(nil), bin.Reads...)
		t.Bins = append(t.Bins, bin)
	}
	return t
}
