// Package integration holds the tests of hasql on real PostgreSQL. Package pgcluster starts clusters with streaming
// replication, and kills, freezes, promotes and repairs their nodes. Package pgproxy makes networks fail.
//
// The tests need PostgreSQL's server programs, in $PGBINDIR or where packages install them. Without them the tests are
// skipped; with HASQL_REQUIRE_POSTGRES=1 they fail instead. HASQL_REQUIRE_PATRONI does the same for Patroni, and
// HASQL_REQUIRE_POOLERS for PgBouncer and HAProxy.
//
// A test waits with hooks, WaitFor, Ready and WaitNextCheck, never for a time to pass. Its context limits all waiting: if a
// promise is broken, the test fails and says what it still waited for.
package integration
