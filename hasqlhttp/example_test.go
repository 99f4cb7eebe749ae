package hasqlhttp_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/hasqlhttp"
)

// A service mounts the page and the probes beside its own handlers. In this example no node is up, so the service is not
// ready, but it is live.
func Example() {
	ctx := context.Background()
	config, err := hasql.ParseConfig(os.Getenv("DATABASE_URL")) // postgres://app@pg1,pg2,pg3/shop
	if err != nil {
		log.Fatal(err)
	}
	var history hasqlhttp.History // optional: the last transitions
	config.Hooks = history.Hooks(config.Hooks)
	pool, err := hasql.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close(ctx)

	mux := http.NewServeMux()
	mux.Handle("/hasql", hasqlhttp.Handler(pool, hasqlhttp.WithHistory(&history)))
	mux.Handle("/readyz", hasqlhttp.Ready(pool, 1, 0)) // 1 master, any number of replicas
	mux.Handle("/livez", hasqlhttp.Live(pool))

	for _, path := range []string{"/hasql?refresh=5", "/readyz", "/livez"} {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Println(path, answer.Code)
	}
	// Output:
	// /hasql?refresh=5 200
	// /readyz 503
	// /livez 200
}
