// Package compose holds the test of docker-compose.yml. It starts, breaks, repairs and removes the cluster and the
// application in containers, as somebody who tries the project does.
//
// The test runs only with HASQL_COMPOSE=1, which make compose-test sets. It is skipped if no Docker engine answers. With
// HASQL_COMPOSE_RUNS=5 it kills the leader five times, instead of breaking it once in each of three ways. It prints the
// outage of the application next to the outage of Patroni.
package compose
