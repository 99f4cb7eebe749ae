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
	for try in 1 2 3; do
		run_tests && return
		# Now and then the race detector itself crashes under testing/synctest (Go 1.26): with a SIGSEGV outside of Go code,
		# or a failed check of its own. A bug in this project would be a panic instead. So the tests run again.
		[ -n "$race" ] && grep -qE '^SIGSEGV: segmentation violation|^ThreadSanitizer: CHECK failed' "$output" || return 1
		echo "the race detector itself crashed at try $try" >&2
	done
	return 1
}

# run_tests shows what go test prints, keeps it in $output, and returns go test's status.
run_tests() {
	{
		go test $race -vet=off -shuffle=on -timeout 8m -p 1 ./... && echo 0 >"$status" || echo 1 >"$status"
	} 2>&1 | tee "$output"
	return "$(cat "$status")"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
output=$scratch/output
status=$scratch/status

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
