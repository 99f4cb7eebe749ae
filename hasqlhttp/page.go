package hasqlhttp

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/pghasql/hasql/internal/human"
)

var (
	//go:embed page.html
	pageSource string
	//go:embed page.css
	pageStyle string

	page = template.Must(template.New("page").Funcs(template.FuncMap{
		"seconds": inWords,
		"bytes":   func(n *uint64) string { return human.Bytes(*n) },
		"mean":    meanWait,
		"sum":     sum,
		"stamp":   func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") },
		"symbol":  func(status string) string { return symbols[status] },
	}).Parse(pageSource))

	// contentSecurityPolicy allows the page's own style and nothing else: no scripts, no frames, no requests.
	contentSecurityPolicy = fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		digest(pageStyle))
)

// symbols show the status to readers who cannot see the colours.
var symbols = map[string]string{"up": "✓", "suspect": "?", "down": "✕", "stale": "⚠", "foreign": "⚠", "banned": "⊘"}

// view is the input of the page's template.
type view struct {
	*Status
	Refresh   int   // seconds, 0 for never
	Refreshes []int // intervals that the page offers
	Style     template.CSS
}

// Up returns how many nodes are up.
func (v view) Up() (n int) {
	for _, node := range v.Nodes {
		if node.Status == "up" {
			n++
		}
	}
	return n
}

// Ago returns how long ago t was.
func (v view) Ago(t time.Time) string { return human.Duration(max(0, v.At.Sub(t))) }

func renderPage(w io.Writer, s *Status, refresh int) error {
	return page.Execute(w, view{Status: s, Refresh: refresh, Refreshes: []int{1, 5, 30}, Style: template.CSS(pageStyle)})
}

// inWords writes a number of seconds as text. nil means unknown.
func inWords(s *float64) string {
	if s == nil {
		return "unknown"
	}
	return human.Duration(time.Duration(*s * float64(time.Second)))
}

func meanWait(t Target) string {
	if t.Waits == 0 {
		return "–"
	}
	return inWords(new(t.WaitSeconds / float64(t.Waits)))
}

func sum(counts map[string]int64) (total int64) {
	for _, n := range counts {
		total += n
	}
	return total
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}
