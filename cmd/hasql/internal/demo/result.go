package demo

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
	"github.com/pghasql/hasql/internal/human"
	"github.com/pghasql/hasql/internal/workload"
)

// Limits of the promises.
const (
	acceptLimit = 100 * time.Millisecond // from the new master's first accepted write to the application's
	readLimit   = time.Second            // for one query of a reader, and for a reader's time without an answer
)

// Millis is a duration that JSON shows in milliseconds with one decimal.
type Millis = human.Millis

// Spread is the median, minimum and maximum of one figure over several runs.
type Spread struct {
	Median Millis `json:"median"`
	Min    Millis `json:"min"`
	Max    Millis `json:"max"`
}

// Failover is one fault and the failover after it.
type Failover struct {
	Fault       string `json:"fault"`
	Old         string `json:"old"`         // the master before
	Promoted    string `json:"promoted"`    // the master after
	WroteAgain  bool   `json:"wrote_again"` // if false, the times have no meaning
	Outage      Millis `json:"outage_ms"`   // from the last write that Old acknowledged to the first that Promoted acknowledged
	AfterAccept Millis `json:"after_accept_ms"`
}

// Kind is all failovers after one kind of fault.
type Kind struct {
	Fault       string `json:"fault"`
	Failovers   int    `json:"failovers"`
	Ended       int    `json:"ended"` // failovers after which the application wrote again; the times are from these
	Outage      Spread `json:"outage_ms"`
	AfterAccept Spread `json:"after_accept_ms"`
}

// Writes counts all writes by their outcome.
type Writes struct {
	Acknowledged  int `json:"acknowledged"`
	Lost          int `json:"lost"`
	OnStaleMaster int `json:"on_stale_master"`
	Failed        int `json:"failed"`           // outcome unknown to the writer
	FailedPresent int `json:"failed_but_there"` // failed writes that are in the table
}

// Reads counts all reads by their outcome.
type Reads struct {
	Answered    int            `json:"answered"`
	Failed      int            `json:"failed"`
	LongestWait Millis         `json:"longest_wait_ms"` // of a reader, from one answer to the next
	ByNode      map[string]int `json:"by_node"`
}

// Promise is one figure that must stay within a limit.
type Promise struct {
	Name  string `json:"name"`
	Limit string `json:"limit"`
	Got   string `json:"got"`
	Kept  bool   `json:"kept"`
}

// Result is the result of the demo.
type Result struct {
	PostgreSQL string     `json:"postgresql"`
	Failovers  []Failover `json:"failovers"`
	Kinds      []Kind     `json:"kinds"`
	Writes     Writes     `json:"writes"`
	Reads      Reads      `json:"reads"`
	Promises   []Promise  `json:"promises"`
	Kept       bool       `json:"kept"`
}

// record holds everything that a Result is computed from.
type record struct {
	version     string
	nodes       []string // names
	played      []played
	outages     []outage
	writes      dashboard.Writes
	failedThere int // failed writes that took effect
	reads       dashboard.Reads
	byNode      map[string]int
}

func newResult(r record) *Result {
	result := &Result{
		PostgreSQL: r.version, Kept: true,
		Writes: Writes{r.writes.Acknowledged, r.writes.Lost, r.writes.Stray, r.writes.Failed, r.failedThere},
		Reads:  Reads{r.reads.Answered, r.reads.Failed, r.reads.LongestWait, r.byNode},
	}
	for _, p := range r.played {
		f := Failover{Fault: p.fault, Old: r.nodes[p.old], Promoted: r.nodes[p.next]}
		if o, ok := outageAfter(p, r.outages); ok {
			f.WroteAgain, f.Outage, f.AfterAccept = true, Millis(o.Length()), Millis(o.Length()) // if the prober saw nothing, the whole outage counts
			if o.ClusterKnown {
				f.AfterAccept = Millis(o.AfterAccept)
			}
		}
		result.Failovers = append(result.Failovers, f)
	}
	for _, fault := range Faults {
		if k := kindOf(fault, result.Failovers); k.Failovers > 0 {
			result.Kinds = append(result.Kinds, k)
		}
	}
	result.judge()
	return result
}

// outageAfter finds the outage that a fault caused: the outage that ended with a write on the promoted node.
func outageAfter(p played, outages []outage) (outage, bool) {
	i := slices.IndexFunc(outages, func(o outage) bool {
		return o.Moved() && o.After.Node == p.next && o.After.Done > p.at && o.After.Done <= p.until
	})
	if i < 0 {
		return outage{}, false
	}
	return outages[i], true
}

func kindOf(fault string, failovers []Failover) Kind {
	k := Kind{Fault: fault}
	var totals, afters []Millis
	for _, f := range failovers {
		if f.Fault != fault {
			continue
		}
		k.Failovers++
		if f.WroteAgain {
			totals, afters = append(totals, f.Outage), append(afters, f.AfterAccept)
		}
	}
	k.Ended, k.Outage, k.AfterAccept = len(totals), newSpread(totals), newSpread(afters)
	return k
}

func newSpread(values []Millis) Spread {
	median, least, greatest := workload.Spread(values)
	return Spread{median, least, greatest}
}

const (
	promiseLost  = "acknowledged writes lost"
	promiseStale = "acknowledged writes on a stale master"
	promiseAgain = "application writes again after a "
	promiseReads = "longest wait of a reader"
)

// judge computes the promises.
func (r *Result) judge() {
	r.Promises = []Promise{
		{promiseLost, "0", strconv.Itoa(r.Writes.Lost), r.Writes.Lost == 0},
		{promiseStale, "0", strconv.Itoa(r.Writes.OnStaleMaster), r.Writes.OnStaleMaster == 0},
	}
	for _, k := range r.Kinds {
		got, kept := k.AfterAccept.Median.String(), time.Duration(k.AfterAccept.Median) <= acceptLimit
		if k.Ended < k.Failovers {
			got, kept = fmt.Sprintf("never in %d of %d", k.Failovers-k.Ended, k.Failovers), false
		}
		r.Promises = append(r.Promises, Promise{promiseAgain + k.Fault, "≤ " + human.Limit(acceptLimit), got, kept})
	}
	r.Promises = append(r.Promises, Promise{
		promiseReads, "≤ " + human.Limit(readLimit), r.Reads.LongestWait.String(), time.Duration(r.Reads.LongestWait) <= readLimit,
	})
	for _, p := range r.Promises {
		r.Kept = r.Kept && p.Kept
	}
}

// Broken returns the promises that were broken, with figure and limit.
func (r *Result) Broken() (names []string) {
	for _, p := range r.Promises {
		if !p.Kept {
			names = append(names, fmt.Sprintf("%s: %s (promised %s)", p.Name, p.Got, p.Limit))
		}
	}
	return names
}

// row is one line of the table: a name, a figure, and the name of the promise about it, if there is one.
type row struct{ name, figure, promise string }

// render writes the table.
func (r *Result) render(w io.Writer, s style) error {
	rows := []row{
		{"writes", "", ""},
		{"  acknowledged", strconv.Itoa(r.Writes.Acknowledged), ""},
		{"    and lost", strconv.Itoa(r.Writes.Lost), promiseLost},
		{"    on a stale master", strconv.Itoa(r.Writes.OnStaleMaster), promiseStale},
		{"  failed, outcome unknown", failedFigure(r.Writes), ""},
	}
	for _, k := range r.Kinds {
		rows = append(rows,
			row{"  outage after a " + k.Fault, k.figure(k.Outage), ""},
			row{"    of it, after the new master accepted writes", k.figure(k.AfterAccept), promiseAgain + k.Fault})
	}
	rows = append(rows, []row{
		{"reads", "", ""},
		{"  answered", strconv.Itoa(r.Reads.Answered), ""},
		{"    by node", r.byNode(), ""},
		{"  failed", strconv.Itoa(r.Reads.Failed), ""},
		{"  longest wait of a reader for an answer", r.Reads.LongestWait.String(), promiseReads},
	}...)
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

// figure returns a single value, or median, minimum and maximum of several.
func (k Kind) figure(s Spread) string {
	switch k.Ended {
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
