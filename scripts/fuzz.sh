#!/bin/sh
# Runs every fuzz target of the root module in turn, each for the time given: scripts/fuzz.sh 10m
#
# It prints one line for each target, and the whole output of a target that fails. A failing input is kept as a seed in
# testdata/fuzz of its package, so go test fails too until the bug is fixed.
set -eu

time=$1
output=$(mktemp)
trap 'rm -f "$output"' EXIT

failed=
for package in $(go list ./...); do
	go test -list '^Fuzz' "$package" >"$output" || { cat "$output"; failed="$failed $package"; continue; }
	for target in $(grep '^Fuzz' "$output" || true); do
		verdict=ok
		# By default Go spends up to a minute on shrinking each new input.
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x "$package" >"$output" 2>&1 || verdict=FAILED
		if [ $verdict = FAILED ]; then
			cat "$output"
			failed="$failed $target"
		fi
		echo "== $target: $verdict, $(sed -n 's/^fuzz: elapsed: \([^,]*\), \(execs: [0-9]*\) ([^)]*), /\2 in \1, /p' "$output" | tail -n 1)"
	done
done
if [ -n "$failed" ]; then
	echo "FAILED:$failed" >&2
	exit 1
fi
