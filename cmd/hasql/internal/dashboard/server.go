// Package dashboard serves a page that shows a PostgreSQL cluster and an application that works on it, live.
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

// closeLimit is how long Serve waits at its end for running requests.
const closeLimit = time.Second

// Serve answers requests on listener until ctx ends. It returns when all requests have ended, or with an error if listener
// fails. It closes listener.
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
//	GET  /api/events   State and Timeline, repeatedly, as server-sent events
//	POST /api/action   begins an action; takes form values action and node, and header Hasql-Run with State's run
//	GET  /healthz      200 once the workload runs, 503 before
//
// If the page may break a cluster, other web sites must not be able to do so through the user's browser. Therefore the
// handler refuses three kinds of requests: requests from another site, by their Sec-Fetch-Site or Origin header; requests
// under another name for this address (DNS rebinding), by their Host header; and actions of a page from an earlier run,
// because they do not have this run's identifier.
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

// secured adds headers. If the page may break a cluster, it also refuses requests under host names of other sites.
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

// ownName reports whether the host of a Host header is an IP address or localhost. Another name could be one that a foreign
// site has pointed at this address.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

func serveState(w http.ResponseWriter, source Source) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(source.State()) // an error means that the client is gone
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
	_, _ = w.Write([]byte("ok\n")) // an error means that the client is gone
}
