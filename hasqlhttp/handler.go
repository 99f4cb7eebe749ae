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

// maxRefresh is the longest interval, in seconds, at which the page reloads itself.
const maxRefresh = 3600

// Option changes what [Handler] shows.
type Option func(*handler)

// WithHistory makes [Handler] show the transitions that h has recorded.
func WithHistory(h *History) Option {
	return func(s *handler) { s.history = h }
}

type handler struct {
	pm      *hasql.PoolManager
	history *History
}

// Handler shows the state of pm. It answers with a page, or with the JSON of [Status] if the query has format=json or if
// the Accept header asks for application/json and not for text/html. With refresh=N in the query the page reloads itself
// every N seconds; N is from 1 to 3600. The handler works at any path.
//
// It answers GET and HEAD only and changes nothing. It shows the names of nodes and the causes of failures, but neither
// users nor passwords nor the DSN. Mount it where the public cannot reach it.
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
			http.Error(w, "format must be json or html", http.StatusBadRequest)
			return
		}
		asJSON = format == "json"
	}
	refresh := 0
	if query.Has("refresh") {
		n, err := strconv.Atoi(query.Get("refresh"))
		if err != nil || n < 1 || n > maxRefresh {
			http.Error(w, fmt.Sprintf("refresh must be a number of seconds from 1 to %d", maxRefresh), http.StatusBadRequest)
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
	w.Write(body.Bytes()) // an error means that the client is gone
}

func wantsJSON(r *http.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// readOnly refuses all methods but GET and HEAD.
func readOnly(serve http.HandlerFunc) http.Handler {
	return safe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		serve(w, r)
	}))
}

// safe sets headers that forbid browsers to cache an answer, to guess its type, to show it in a frame, and to run scripts in
// it.
func safe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", contentSecurityPolicy)
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
