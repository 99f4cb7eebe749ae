package promhasql_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/promhasql"
)

// A service registers the collector once and serves its metrics. In this example no node is up.
func Example() {
	ctx := context.Background()
	pool, err := hasql.New(ctx, "postgres://app@127.0.0.1:1,127.0.0.1:2/shop") // yours: postgres://app@pg1,pg2,pg3/shop
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close(ctx)

	registry := prometheus.NewRegistry()
	registry.MustRegister(promhasql.NewCollector(pool))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(answer.Body.String()) {
		if strings.HasPrefix(line, "hasql_masters") || strings.HasPrefix(line, "hasql_node_up") {
			fmt.Print(line)
		}
	}
	// Output:
	// hasql_masters 0
	// hasql_node_up{node="127.0.0.1:1",role="master"} 0
	// hasql_node_up{node="127.0.0.1:1",role="replica"} 0
	// hasql_node_up{node="127.0.0.1:2",role="master"} 0
	// hasql_node_up{node="127.0.0.1:2",role="replica"} 0
}
