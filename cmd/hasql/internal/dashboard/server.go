// Package dashboard shows a PostgreSQL cluster and an application that works on it as a page in a browser, live.
package dashboard

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"time"
)

//go:embed page
var page embed.FS

// closeLimit is how long Serve waits for requests that are under way when it ends.
const closeLimit = time.Second

// Serve answers on listener until ctx ends, and returns when all requests have ended, or the error of listening. It
// closes listener.
func Serve(ctx context.Context, listener net.Listener, source Source) error {
	server := &http.Server{
		Handler:           Handler(source),
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the streams
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		if server.Shutdown(limited) != nil {
			server.Close()
		}
	})
	err := server.Serve(listener)
	if stop() {
		return err
	}
	<-stopped
	return nil
}

// Handler answers
//
//	GET  /             the page
//	GET  /api/state    State as JSON
//	GET  /api/events   the same and the timeline, again and again, as server-sent events
//	POST /api/action   begins an action: form values action and node, header Hasql-Run as in State
//	GET  /healthz      200 once the workload runs, 503 before
//
// Where the page may break a cluster, only a page of ours may: a request that a browser makes on behalf of another site
// is refused by its Sec-Fetch-Site or Origin header, one under a foreign name for our address by its Host header, and an
// action by a page of an earlier run because it does not know this run's name.
func Handler(source Source) http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the folder is embedded
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /api/state", func(w http.ResponseWriter, _ *http.Request) { serveState(w, source) })
	mux.HandleFunc("GET /api/events", func(w http.ResponseWriter, r *http.Request) { serveEvents(w, r, source) })
	mux.HandleFunc("POST /api/action", func(w http.ResponseWriter, r *http.Request) { serveAction(w, r, source) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { serveHealth(w, source) })
	return secured(http.NewCrossOriginProtection().Handler(mux), source)
}

// secured adds headers, and refuses names under which a foreign site might reach us.
func secured(next http.Handler, source Source) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if source.State().Owned && !ownName(r.Host) {
			http.Error(w, "this page answers to IP addresses and localhost only", http.StatusForbidden)
			return
		}
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// ownName reports whether host, of a Host header, is none that a foreign site could have pointed at our address.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

func serveState(w http.ResponseWriter, source Source) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(source.State()) // a client that left needs no answer
}

func serveAction(w http.ResponseWriter, r *http.Request, source Source) {
	if r.Header.Get("Hasql-Run") != source.State().Run {
		http.Error(w, "the header Hasql-Run does not name this run", http.StatusForbidden)
		return
	}
	err := source.Do(r.FormValue("action"), r.FormValue("node"))
	switch {
	case errors.Is(err, ErrRefused):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

func serveHealth(w http.ResponseWriter, source Source) {
	if phase := source.State().Phase; phase != Running {
		http.Error(w, phase, http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // a client that left needs no answer
}
