// Package hasqlhttp shows the state of a [hasql.PoolManager] over HTTP: as a status page, similar to HAProxy's statistics
// page, and as JSON. It also answers the readiness and liveness probes of an orchestrator such as Kubernetes, and takes an
// operator's orders.
//
//	mux.Handle("/hasql", hasqlhttp.Handler(pool))
//	mux.Handle("/readyz", hasqlhttp.Ready(pool, 1, 0))
//	mux.Handle("/livez", hasqlhttp.Live(pool))
//
// # The page
//
// [Handler] serves a page that needs no JavaScript. It shows each node with its role, its status and the cause of the
// status, its timeline, lag and latency, the age of the evidence, and its pool. It also shows the results of acquires
// and, with a [History], the last transitions. ?refresh=5 reloads the page every 5 seconds.
//
// # JSON
//
// With ?format=json, or with an Accept header that asks for JSON, the answer is a [Status]. Its shape is documented there
// and stable:
//
//	curl -s http://localhost:8080/hasql?format=json | jq '.nodes[] | select(.status != "up") | .name, .cause'
//
// # Safety
//
// [Handler], [Ready] and [Live] answer GET and HEAD only, and change nothing. [Admin] takes an operator's orders: it exists
// only where it is mounted, and needs a token. The answers contain no DSN, no user and no password. Headers
// forbid browsers to cache the answers, to show them in a frame and to run scripts in them. The answers do contain the names
// of nodes and the causes of failures: mount the handlers where the public cannot reach them.
package hasqlhttp
