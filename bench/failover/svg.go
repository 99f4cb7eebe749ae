package main

import (
	"cmp"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The timeline: two panels, writes above and reads below. In each a stack of operations per 10 ms by who did them, and
// beneath it a bar for each operation that took so long that it shows.
const (
	binWidth  = 10 * time.Millisecond
	lead      = 300 * time.Millisecond // shown before the fault
	longOp    = 20 * time.Millisecond
	plotLeft  = 62.0
	plotWidth = 1000.0
	panelTop  = 116.0
	stackHigh = 150.0
	barsHigh  = 24.0 // room for the bars
	panelHigh = stackHigh + barsHigh + 46
)

// fills are the colours of n1, n2 and n3, and of failure: told apart by everybody (Okabe and Ito, 2008).
var (
	fills      = []string{"#0072b2", "#009e73", "#e69f00"}
	failedFill = "#d1242f"
)

func fillOf(node int) string {
	if node == nobody {
		return failedFill
	}
	return fills[node%len(fills)]
}

func writeSVG(dir string, r result, rec record) error {
	return os.WriteFile(filepath.Join(dir, r.SVG), []byte(drawing(r, rec)), 0o644)
}

// canvas is a picture under way.
type canvas struct {
	strings.Builder
	rec   record
	scale float64 // pixels per nanosecond
}

// drawing returns the timeline of a run.
func drawing(r result, rec record) string {
	c := &canvas{rec: rec, scale: plotWidth / float64(rec.end+lead)}
	high := panelTop + 2*panelHigh
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%[1]g" font-family="system-ui, sans-serif" font-size="12" fill="#1f2328">`+"\n",
		plotLeft+plotWidth+20, high)
	fmt.Fprintf(c, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	c.text(plotLeft, 22, `font-size="15" font-weight="600"`, r.String())
	c.legend()
	for i, title := range []string{"writes per 10 ms", "reads per 10 ms"} {
		c.panel(panelTop+float64(i)*panelHigh, title, i == 0)
	}
	c.marks(high - panelHigh + stackHigh)
	c.WriteString("</svg>\n")
	return c.String()
}

func (c *canvas) text(x, y float64, attributes, text string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, html.EscapeString(text))
}

func (c *canvas) x(at time.Duration) float64 { return plotLeft + float64(at+lead)*c.scale }

func (c *canvas) legend() {
	x := plotLeft
	for _, node := range []int{0, 1, 2, nobody} {
		name := "failed"
		if node != nobody && node < len(c.rec.nodes) {
			name = "ok on " + c.rec.nodes[node]
		}
		fmt.Fprintf(c, `<rect x="%.1f" y="34" width="12" height="12" fill="%s"/>`+"\n", x, fillOf(node))
		c.text(x+17, 44, "", name)
		x += 90
	}
	c.text(x, 44, `fill="#656d76"`, "bars beneath: operations under way for more than 20 ms")
}

// bin counts the operations that ended in it, by node; the last element is for failed ones.
type bin [4]int

// bins sorts operations by time.
func bins(ops []op, write bool, end time.Duration) []bin {
	all := make([]bin, (end+lead+binWidth-1)/binWidth)
	for _, o := range ops {
		i := int((o.end + lead) / binWidth)
		if o.write != write || o.end < -lead || i >= len(all) {
			continue
		}
		node := o.node
		if node == nobody {
			node = len(bin{}) - 1
		}
		all[i][node]++
	}
	return all
}

func (b bin) sum() (n int) {
	for _, count := range b {
		n += count
	}
	return n
}

// panel draws the writes or the reads.
func (c *canvas) panel(top float64, title string, write bool) {
	all := bins(c.rec.ops, write, c.rec.end)
	most := 1
	for _, b := range all {
		most = max(most, b.sum())
	}
	floor, unit := top+stackHigh, stackHigh/float64(most)
	c.text(plotLeft, top-6, `font-weight="600"`, title)
	c.text(plotLeft-6, top+10, `text-anchor="end" fill="#656d76"`, fmt.Sprint(most))
	c.text(plotLeft-6, floor, `text-anchor="end" fill="#656d76"`, "0")
	for kind := range len(bin{}) {
		var path strings.Builder
		for i, b := range all {
			if b[kind] == 0 {
				continue
			}
			below := 0
			for _, n := range b[:kind] {
				below += n
			}
			left := c.x(time.Duration(i)*binWidth - lead)
			fmt.Fprintf(&path, "M%.1f %.1fh%.2fv%.1fh-%.2[3]fz", left, floor-float64(below)*unit,
				float64(binWidth)*c.scale, -float64(b[kind])*unit)
		}
		if path.Len() > 0 {
			node := kind
			if kind == len(bin{})-1 {
				node = nobody
			}
			fmt.Fprintf(c, `<path fill="%s" d="%s"/>`+"\n", fillOf(node), path.String())
		}
	}
	c.bars(floor+4, write)
	c.axis(floor, floor+barsHigh)
}

// bars draws the operations that took long, each client's on a line of its own.
func (c *canvas) bars(top float64, write bool) {
	for _, o := range c.rec.ops {
		if o.write != write || o.end-o.start < longOp || o.end < -lead {
			continue
		}
		line := 0
		if !write {
			line = (o.client - 1) % 3
		}
		left := max(c.x(o.start), plotLeft)
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="5" rx="1" fill="%s" fill-opacity="0.6"/>`+"\n",
			left, top+float64(line)*6, min(c.x(o.end), plotLeft+plotWidth)-left, fillOf(o.node))
	}
}

// axis draws the line under a stack, and times.
func (c *canvas) axis(floor, below float64) {
	fmt.Fprintf(c, `<path stroke="#1f2328" d="M%.1f %.1fh%.1f"/>`+"\n", plotLeft, floor, plotWidth)
	tick := 250 * time.Millisecond
	if c.rec.end > 4*time.Second {
		tick = time.Second
	}
	for at := -lead.Truncate(tick); at <= c.rec.end; at += tick {
		fmt.Fprintf(c, `<path stroke="#d0d7de" d="M%.1f %.1fv%.1f"/>`+"\n", c.x(at), floor, below-floor)
		c.text(c.x(at), below+12, `text-anchor="middle" fill="#656d76"`, fmt.Sprintf("%g s", at.Seconds()))
	}
}

// marks draws a line for each mark through both panels, with names at different heights where they are close.
func (c *canvas) marks(bottom float64) {
	marks := slices.SortedStableFunc(slices.Values(c.rec.marks), func(a, b mark) int { return cmp.Compare(a.At, b.At) })
	row, last := 0, -1000.0
	for _, m := range marks {
		x := c.x(time.Duration(float64(m.At) * float64(time.Millisecond)))
		if row++; x-last > 130 {
			row = 0
		}
		last = x
		y := 64 + float64(row%4)*13
		fmt.Fprintf(c, `<path stroke="#57606a" stroke-dasharray="3 3" d="M%.1f %.1fV%.1f"/>`+"\n", x, y-8, bottom)
		c.text(x+4, y, `fill="#57606a"`, fmt.Sprintf("%s, %.0f ms", m.Name, m.At))
	}
}
