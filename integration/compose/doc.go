// Package compose holds the test of docker-compose.yml: the cluster and the application in containers, as somebody who
// tries the project starts, breaks, repairs and removes them.
//
// HASQL_COMPOSE=1 runs it, as make compose-test does, and where no Docker engine answers it says so and is skipped. With
// HASQL_COMPOSE_RUNS=5 it kills the leader five times instead of breaking it in three ways once each. Either way it prints
// what the application felt next to what Patroni itself took.
package compose
