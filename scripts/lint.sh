#!/bin/sh
# Checks the code without running it: scripts/lint.sh DIR...
#
# It runs go vet, staticcheck, go fix and go mod tidy in each module, and gofumpt over all of them. It prints what they find
# and fails if they find anything. staticcheck and gofumpt are in bin/; see the Makefile.
set -eu

bin=$(cd "$(dirname "$0")/.." && pwd)/bin
failed=

# check runs a command. Any output or a failure is a finding.
check() {
	what=$1
	shift
	status=0
	output=$("$@" 2>&1) || status=$?
	# Messages about downloads are not findings.
	output=$(printf '%s\n' "$output" | grep -v '^go: downloading ' || true)
	if [ $status -ne 0 ] || [ -n "$output" ]; then
		printf -- '-- %s: %s\n%s\n' "$module" "$what" "$output"
		failed="$failed $module:$what"
	fi
}

for module in "$@"; do
	cd "$module"
	began=$(date +%s)
	check tidy go mod tidy -diff
	check vet go vet ./...
	check staticcheck "$bin/staticcheck" ./...
	check fix go fix -diff ./...
	cd - >/dev/null
	echo "== module $module: $(($(date +%s) - began)) s"
done
module=.
check gofumpt "$bin/gofumpt" -l .

if [ -n "$failed" ]; then
	echo "FAILED:$failed" >&2
	exit 1
fi
