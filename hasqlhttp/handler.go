package hasqlhttp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/pghasql/hasql"
)

// maxRefresh is the longest interval of a page that loads itself anew, in seconds.
const maxRefresh = 3600

// Option changes what [Handler] shows.
type Option func(*handler)

// WithHistory shows the transitions that h has kept.
func WithHistory(h *History) Option {
	return func(s *handler) { s.history = h }
}

type handler struct {
	pm      *hasql.PoolManager
	history *History
}

// Handler shows the state of pm: as a page, or as the JSON of [Status] if the query says format=json or the Accept header
// asks for application/json and not for text/html. With refresh=N in the query the page loads itself anew every N
// seconds, 1 to 3600. It works at any path.
//
// It answers GET and HEAD alone and changes nothing. It shows names of nodes and why they fail, but neither users nor
// passwords nor the DSN: good for eyes inside, not for the whole world.
func Handler(pm *hasql.PoolManager, options ...Option) http.Handler {
	h := &handler{pm: pm}
	for _, option := range options {
		option(h)
	}
	return readOnly(h.serve)
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	query := r.URL.Query()
	asJSON := wantsJSON(r)
	if format := query.Get("format"); format != "" {
		if format != "json" && format != "html" {
			http.Error(w, "format is json or html", http.StatusBadRequest)
			return
		}
		asJSON = format == "json"
	}
	refresh := 0
	if query.Has("refresh") {
		n, err := strconv.Atoi(query.Get("refresh"))
		if err != nil || n < 1 || n > maxRefresh {
			http.Error(w, fmt.Sprintf("refresh is a number of seconds from 1 to %d", maxRefresh), http.StatusBadRequest)
			return
		}
		refresh = n
	}

	var body bytes.Buffer
	var err error
	status := NewStatus(h.pm, h.history)
	if asJSON {
		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(&body).Encode(status)
	} else {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		err = renderPage(&body, status, refresh)
	}
	if err != nil {
		http.Error(w, "hasqlhttp: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write(body.Bytes()) // an error means that nobody reads it
}

func wantsJSON(r *http.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// readOnly refuses methods that could be meant to change something, and keeps answers from being stored, sniffed, framed or
// scripted.
func readOnly(serve http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", contentSecurityPolicy)
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			header.Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		serve(w, r)
	})
}
