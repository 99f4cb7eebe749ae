// Package integration holds the tests of hasql on real PostgreSQL: clusters with streaming replication that are killed,
// frozen, promoted, cut off and brought back, as package pgcluster does it, and networks that fail, as package pgproxy
// does it.
//
// The servers' binaries are looked for where packages install them, and in $PGBINDIR. Without them the tests are
// skipped; with HASQL_REQUIRE_POSTGRES=1 they fail instead. So it is with Patroni and HASQL_REQUIRE_PATRONI, with PgBouncer
// and HAProxy and HASQL_REQUIRE_POOLERS.
//
// A test waits for what it needs by hooks, snapshots, Ready and WaitNextCheck, never for a time to pass. Its context
// bounds all of it: a promise that is not kept ends as a test that says what it still waited for.
package integration
