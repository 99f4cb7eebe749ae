// Package hasqlhttp shows the state of a cluster over HTTP: a status page that is to a [hasql.PoolManager] what HAProxy's
// statistics page is to HAProxy, the same as JSON, and probes for whatever watches over the service.
//
//	mux.Handle("/hasql", hasqlhttp.Handler(pool))
//	mux.Handle("/readyz", hasqlhttp.Ready(pool, 1, 0))
//	mux.Handle("/livez", hasqlhttp.Live(pool))
//
// # The page
//
// [Handler] answers with a page that needs no JavaScript: each node with its role, status and the cause of it, timeline,
// lag, latency, age of the evidence, and its pool; what became of acquires; and with a [History] the last transitions.
// ?refresh=5 loads it anew every 5 seconds.
//
// # JSON
//
// ?format=json, or an Accept header that says so, gives a [Status], whose shape is documented there and stable:
//
//	curl -s http://localhost:8080/hasql?format=json | jq '.nodes[] | select(.status != "up") | .name, .cause'
//
// # Safety
//
// The handlers answer GET and HEAD and change nothing. Their answers hold no DSN, no user and no password, and are neither
// stored nor framed nor scripted. They do tell names of nodes and what is wrong with them: mount them where the world
// outside does not reach.
package hasqlhttp
