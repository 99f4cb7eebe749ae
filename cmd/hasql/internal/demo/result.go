package demo

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// The promises' limits.
const (
	acceptLimit = 100 * time.Millisecond // from the new master's first accepted write to the application's
	readLimit   = time.Second            // a reader's patience with one query, and with being without an answer
)

// Millis is a duration that JSON shows in milliseconds with one decimal.
type Millis time.Duration

// MarshalJSON implements json.Marshaler.
func (m Millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, m.rounded(), 'f', -1, 64), nil
}

func (m Millis) String() string {
	if time.Duration(m) >= 100*time.Millisecond {
		return fmt.Sprintf("%.0f ms", m.rounded())
	}
	return fmt.Sprintf("%.1f ms", m.rounded())
}

func (m Millis) rounded() float64 {
	return math.Round(float64(m)/float64(time.Millisecond)*10) / 10
}

// Spread is one figure over several runs.
type Spread struct {
	Median Millis `json:"median"`
	Min    Millis `json:"min"`
	Max    Millis `json:"max"`
}

// Failover is one run.
type Failover struct {
	Killed      string `json:"killed"`
	Promoted    string `json:"promoted"`
	WroteAgain  bool   `json:"wrote_again"` // if false, the times mean nothing
	Outage      Millis `json:"outage_ms"`
	AfterAccept Millis `json:"after_accept_ms"`
}

// Writes is what became of all writes.
type Writes struct {
	Acknowledged  int `json:"acknowledged"`
	Lost          int `json:"lost"`
	OnStaleMaster int `json:"on_stale_master"`
	Failed        int `json:"failed"`           // outcome unknown to the writer
	FailedPresent int `json:"failed_but_there"` // of these, found in the ledger
}

// Reads is what became of all reads.
type Reads struct {
	Answered    int            `json:"answered"`
	Failed      int            `json:"failed"`
	LongestWait Millis         `json:"longest_wait_ms"` // of one reader for an answer
	ByNode      map[string]int `json:"by_node"`
}

// Promise is one thing that must hold.
type Promise struct {
	Name  string `json:"name"`
	Limit string `json:"limit"`
	Got   string `json:"got"`
	Kept  bool   `json:"kept"`
}

// Result is what the demo found.
type Result struct {
	PostgreSQL  string     `json:"postgresql"`
	Failovers   []Failover `json:"failovers"`
	Outage      Spread     `json:"outage_ms"`
	AfterAccept Spread     `json:"after_accept_ms"`
	Writes      Writes     `json:"writes"`
	Reads       Reads      `json:"reads"`
	Promises    []Promise  `json:"promises"`
	Kept        bool       `json:"kept"`
}

// record is all that a result is computed from.
type record struct {
	version   string
	nodes     []string // names
	failovers []failover
	writes    []write
	reads     [][]read // by reader, in order
	ledger    map[int64]bool
	end       time.Duration
}

func newResult(r record) *Result {
	result := &Result{PostgreSQL: r.version, Kept: true}
	var totals, afters []Millis
	for _, f := range r.failovers {
		o := outageOf(f, r.writes)
		result.Failovers = append(result.Failovers, Failover{
			Killed: r.nodes[f.old], Promoted: r.nodes[f.next], WroteAgain: o.over,
			Outage: Millis(o.total), AfterAccept: Millis(o.afterAccept),
		})
		if o.over {
			totals, afters = append(totals, Millis(o.total)), append(afters, Millis(o.afterAccept))
		}
	}
	result.Outage = newSpread(totals)
	result.AfterAccept = newSpread(afters)

	fates := settle(r.writes, r.ledger, r.failovers)
	result.Writes = Writes{fates.acknowledged, fates.lost, fates.stray, fates.failed, fates.failedThere}

	result.Reads.ByNode = make(map[string]int)
	for _, name := range r.nodes {
		result.Reads.ByNode[name] = 0
	}
	for _, reads := range r.reads {
		result.Reads.LongestWait = max(result.Reads.LongestWait, Millis(longestWait(reads, r.end)))
		for _, one := range reads {
			if one.node == nobody {
				result.Reads.Failed++
				continue
			}
			result.Reads.Answered++
			result.Reads.ByNode[r.nodes[one.node]]++
		}
	}
	result.judge()
	return result
}

func newSpread(values []Millis) (s Spread) {
	s.Median, s.Min, s.Max = spreadOf(values)
	return s
}

const (
	promiseLost  = "acknowledged writes lost"
	promiseStale = "acknowledged writes on a stale master"
	promiseAgain = "application writes again"
	promiseReads = "longest wait of a reader"
)

// judge fills in the promises.
func (r *Result) judge() {
	again := r.AfterAccept.Median.String()
	wrote := true
	for i, f := range r.Failovers {
		if !f.WroteAgain {
			wrote = false
			again = "never"
			if len(r.Failovers) > 1 {
				again = fmt.Sprintf("not after failover %d", i+1)
			}
			break
		}
	}
	r.Promises = []Promise{
		{promiseLost, "0", strconv.Itoa(r.Writes.Lost), r.Writes.Lost == 0},
		{promiseStale, "0", strconv.Itoa(r.Writes.OnStaleMaster), r.Writes.OnStaleMaster == 0},
		{promiseAgain, "≤ " + spell(acceptLimit), again, wrote && time.Duration(r.AfterAccept.Median) <= acceptLimit},
		{promiseReads, "≤ " + spell(readLimit), r.Reads.LongestWait.String(), time.Duration(r.Reads.LongestWait) <= readLimit},
	}
	for _, p := range r.Promises {
		r.Kept = r.Kept && p.Kept
	}
}

// Broken names the promises that did not hold, with limit and figure.
func (r *Result) Broken() (names []string) {
	for _, p := range r.Promises {
		if !p.Kept {
			names = append(names, fmt.Sprintf("%s: %s (promised %s)", p.Name, p.Got, p.Limit))
		}
	}
	return names
}

// spell writes a limit as text does, "100 ms" or "1 s".
func spell(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return fmt.Sprintf("%d ms", d/time.Millisecond)
}

// row is one line of the table: a name, a figure, and the promise about it if there is one.
type row struct{ name, figure, promise string }

// render writes the table.
func (r *Result) render(w io.Writer, s style) error {
	rows := []row{
		{"writes", "", ""},
		{"  acknowledged", strconv.Itoa(r.Writes.Acknowledged), ""},
		{"    and lost", strconv.Itoa(r.Writes.Lost), promiseLost},
		{"    on a stale master", strconv.Itoa(r.Writes.OnStaleMaster), promiseStale},
		{"  failed, outcome unknown", failedFigure(r.Writes), ""},
		{"  outage: last on the old master to first on the new", r.figure(r.Outage), ""},
		{"    of it, after the new master accepted writes", r.figure(r.AfterAccept), promiseAgain},
		{"reads", "", ""},
		{"  answered", strconv.Itoa(r.Reads.Answered), ""},
		{"    by node", r.byNode(), ""},
		{"  failed", strconv.Itoa(r.Reads.Failed), ""},
		{"  longest wait of a reader for an answer", r.Reads.LongestWait.String(), promiseReads},
	}
	var padded bytes.Buffer
	table := tabwriter.NewWriter(&padded, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		limit, verdict := "", ""
		if p, ok := r.promise(row.promise); ok {
			limit, verdict = "promised "+p.Limit, s.good("kept")
			if !p.Kept {
				verdict = s.bad("BROKEN")
			}
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", row.name, row.figure, limit, verdict)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(padded.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func (r *Result) promise(name string) (Promise, bool) {
	i := slices.IndexFunc(r.Promises, func(p Promise) bool { return p.Name == name })
	if i < 0 {
		return Promise{}, false
	}
	return r.Promises[i], true
}

func failedFigure(w Writes) string {
	if w.FailedPresent == 0 {
		return strconv.Itoa(w.Failed)
	}
	return fmt.Sprintf("%d (%d took effect)", w.Failed, w.FailedPresent)
}

// figure shows one time, or median and extremes of several.
func (r *Result) figure(s Spread) string {
	over := 0
	for _, f := range r.Failovers {
		if f.WroteAgain {
			over++
		}
	}
	switch over {
	case 0:
		return "it did not end"
	case 1:
		return s.Median.String()
	}
	return fmt.Sprintf("median %s (%s … %s)", s.Median, strings.TrimSuffix(s.Min.String(), " ms"), s.Max)
}

func (r *Result) byNode() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Reads.ByNode)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, r.Reads.ByNode[name]))
	}
	return strings.Join(parts, ", ")
}
