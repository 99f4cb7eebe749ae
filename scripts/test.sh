#!/bin/sh
# Vets and tests modules, one after the other: scripts/test.sh DIR...
#
# It prints go test's line for each package and a line with the time for each module. A failure is printed with its whole
# output. The other modules are tested all the same.
set -eu

race=-race
if [ "$(go env CGO_ENABLED)" = 0 ]; then
	race=
	echo "tests run without -race because cgo is off" >&2
fi
export HASQL_REQUIRE_POSTGRES=1

# Some tests need programs that few systems have. Where these are missing, the tests are skipped.
if "$(dirname "$0")/need.sh" patroni; then export HASQL_REQUIRE_PATRONI=1; fi
if "$(dirname "$0")/need.sh" poolers; then export HASQL_REQUIRE_POOLERS=1; fi

# test_module runs in the module's folder. go vet comes first, because it compiles all packages at once. The tests run one
# package at a time, because several packages start whole clusters.
test_module() {
	go vet $race ./... || return
	go test $race -vet=off -shuffle=on -timeout 8m -p 1 ./...
}

failed=
for module in "$@"; do
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
