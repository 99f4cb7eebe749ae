package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/hasqlhttp"
	"github.com/pghasql/hasql/promhasql"
)

// server has one route for writes and one for reads. Both are made once and used by all requests.
type server struct {
	pool  *hasql.PoolManager
	write queries
	read  queries
	log   *zap.Logger
}

// newHandler returns the handler of the whole service: the shop, its metrics, its probes and the status page.
func newHandler(pool *hasql.PoolManager, log *zap.Logger) http.Handler {
	s := &server{pool: pool, write: queries{pool.Master()}, read: queries{pool.Replica(hasql.WithFallbackMaster(true))}, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products", s.listProducts)
	mux.HandleFunc("GET /products/{id}", s.getProduct)
	mux.HandleFunc("POST /products", s.addProduct)
	mux.HandleFunc("POST /skus/{id}/sell", s.sell)

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(promhasql.NewCollector(pool))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.Handle("GET /hasql", hasqlhttp.Handler(pool))
	mux.Handle("GET /livez", hasqlhttp.Live(pool))
	// The shop is useful as long as it can read. So it stays ready during a failover, while writes wait.
	mux.Handle("GET /readyz", hasqlhttp.Ready(pool, 0, 1))
	return mux
}

func (s *server) listProducts(w http.ResponseWriter, r *http.Request) {
	products, err := s.read.products(r.Context(), r.FormValue("brand"))
	s.answer(w, http.StatusOK, products, err)
}

// getProduct reads from a replica. With the parameter written, the position in the WAL after the caller's write, it reads from
// a replica that has replayed this position.
func (s *server) getProduct(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		http.Error(w, "the id of a product is a number", http.StatusBadRequest)
		return
	}
	read := s.read
	if text := r.FormValue("written"); text != "" {
		lsn, err := hasql.ParseLSN(text)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		read = queries{s.pool.Replica(hasql.AtLeast(lsn), hasql.WithFallbackMaster(true))}
	}
	p, err := read.product(r.Context(), id)
	s.answer(w, http.StatusOK, p, err)
}

// addProduct writes in one transaction. The header Location contains the position in the WAL, so that a read of this URL
// sees the product at once.
func (s *server) addProduct(w http.ResponseWriter, r *http.Request) {
	var p product
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&p); err != nil || p.Brand == "" || p.Name == "" {
		http.Error(w, `a product looks like {"brand": "Acme", "name": "T-shirt", "skus": [{"size": "M", "colour": "red", "stock": 3}]}`, http.StatusBadRequest)
		return
	}
	err := pgx.BeginFunc(r.Context(), s.pool.Master(), func(tx pgx.Tx) (err error) {
		p.ID, err = queries{tx}.addProduct(r.Context(), p)
		return err
	})
	if err == nil {
		var written hasql.LSN
		written, err = s.write.written(r.Context())
		w.Header().Set("Location", fmt.Sprintf("/products/%d?written=%v", p.ID, written))
	}
	s.answer(w, http.StatusCreated, map[string]int64{"id": p.ID}, err)
}

func (s *server) sell(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	pieces, err2 := strconv.Atoi(r.FormValue("pieces"))
	if err != nil || err2 != nil || pieces < 1 {
		http.Error(w, "POST /skus/{id}/sell?pieces=1", http.StatusBadRequest)
		return
	}
	left, err := s.write.sell(r.Context(), id, pieces)
	s.answer(w, http.StatusOK, map[string]int{"left": left}, err)
}

// answer writes a value, or for an error a message for the caller. The error itself goes to the log.
func (s *server) answer(w http.ResponseWriter, status int, value any, err error) {
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(value) // an error means that the client is gone
		return
	}
	_, noNode := errors.AsType[*hasql.NoNodeError](err)
	pgErr, refused := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		http.Error(w, "there is no such item, or too few of them", http.StatusNotFound)
	case refused && pgErr.Code == "23505":
		http.Error(w, "it exists already", http.StatusConflict)
	case refused && pgErr.Code[:2] == "22", refused && pgErr.Code[:2] == "23":
		http.Error(w, "the values are invalid", http.StatusUnprocessableEntity)
	case noNode:
		s.log.Warn("no node", zap.Error(err))
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the database is not available", http.StatusServiceUnavailable)
	default: // also a write whose outcome is unknown because its node died: the caller has to check
		s.log.Error("request failed", zap.Error(err))
		http.Error(w, "internal error", http.StatusInternalServerError)
	}
}
