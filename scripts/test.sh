#!/bin/sh
# Vets and tests modules, one after the other: scripts/test.sh DIR...
#
# Each package gets go test's own line, each module one with its time. Failures come with their whole output, and do not
# keep the other modules from being tested.
set -eu

race=-race
if [ "$(go env CGO_ENABLED)" = 0 ]; then
	race=
	echo "without -race: cgo is off" >&2
fi
export HASQL_REQUIRE_POSTGRES=1

# What these tests need in addition may be had on few systems: elsewhere they are skipped.
if "$(dirname "$0")/need.sh" patroni; then export HASQL_REQUIRE_PATRONI=1; fi
if "$(dirname "$0")/need.sh" poolers; then export HASQL_REQUIRE_POOLERS=1; fi

# test_module runs in the module's folder. Vetting comes first because it compiles all packages at once; the tests
# run one package at a time, as several of them start whole clusters.
test_module() {
	go vet $race ./... || return
	run_tests && return
	# The race detector's own code crashes once in a long while under testing/synctest (Go 1.26): a bare SIGSEGV
	# outside of Go code, where a fault of ours would be a panic. That says nothing of the tests, so they run again.
	[ -n "$race" ] && grep -q '^SIGSEGV: segmentation violation' "$output" || return 1
	echo "the race detector itself crashed; once more" >&2
	run_tests
}

# run_tests shows what go test prints, keeps it in $output, and returns go test's status.
run_tests() {
	{
		go test $race -vet=off -shuffle=on -timeout 5m -p 1 ./... && echo 0 >"$status" || echo 1 >"$status"
	} 2>&1 | tee "$output"
	return "$(cat "$status")"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
output=$scratch/output
status=$scratch/status

failed=
for module in "$@"; do
	[ -n "$(cd "$module" && go list ./... 2>/dev/null)" ] || continue # tools/ has no packages of its own
	began=$(date +%s)
	verdict=ok
	(cd "$module" && test_module) || verdict=FAILED
	[ $verdict = ok ] || failed="$failed $module"
	echo "== module $module: $verdict, $(($(date +%s) - began)) s"
done
if [ -n "$failed" ]; then
	echo "FAILED:$failed" >&2
	exit 1
fi
