#!/bin/sh
# Runs the core of the integration tests on several major versions of PostgreSQL: scripts/majors.sh MAJOR...
#
# A version that is not installed is downloaded from the Debian suite that has it, and unpacked into a cache folder together
# with its libraries. Nothing is installed, and no special right is needed. apt-get verifies the archives with Debian's
# keyring. A version that cannot be downloaded is skipped, and a line says why. The exit status is 0 if no test failed.
set -eu
cd "$(dirname "$0")/.."

# Servers that root starts run under another account, which may not read root's home folder.
if [ "$(id -u)" -eq 0 ]; then
	cache=${HASQL_CACHE:-/var/cache/hasql}
else
	cache=${HASQL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hasql}
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
race=-race
[ "$(go env CGO_ENABLED)" != 0 ] || race=

# The tests that depend most on the server: roles, promotions, ends of sessions, timelines, lag, and a short chaos run.
core='^Test(WorkGoes|TargetSessionAttrs|Failover|Switchover|ReplicaComesAndGoes|RestartOfTheMaster|CrashOfABackend'
core="$core|PromotionIsNoticed|MasterSetReadOnly|RefusedWrite|SilenceUnderTraffic|Minority|StatementsOnAFrozen"
core="$core|ThawedMaster|MasterThatGoesOn|TwoMasters|ForeignNode|Replica(ThatFalls|ThatIsCut|OfAnIdle|ThatLacks)|ReadAtLeast"
core="$core|FewFailovers)"

suite_of() {
	case $1 in
	13) echo bullseye ;;
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo forky ;;
	*)
		echo "no Debian suite has it" >&2
		return 1
		;;
	esac
}

# apt_get is apt-get with a single suite and with folders of its own.
apt_get() {
	apt-get -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State="$state" \
		-o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)" \
		-o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# fetch unpacks a version with its libraries into the cache, in a subshell. If it fails, it prints why.
fetch() {
	major=$1
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "there is no apt-get"; return 1; }
	[ -e $keyring ] || { echo "there is no $keyring: apt-get install debian-archive-keyring"; return 1; }
	suite=$(suite_of "$major" 2>&1) || { echo "$suite"; return 1; }
	mkdir -p "$cache" || return 1
	fresh=$(mktemp -d "$cache/new-XXXXXX") || return 1
	trap 'rm -rf "$fresh"' EXIT
	trap 'exit 1' INT TERM
	chmod 755 "$fresh"
	state=$fresh/apt
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$fresh/debs"
	: >"$state/status"
	# Use the archive of this machine's own packages, which may be a mirror.
	archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -n 1)
	[ -n "$archive" ] || { echo "apt has no archive of Debian's"; return 1; }
	echo "deb [signed-by=$keyring] $archive $suite main" >"$state/sources.list"
	if unpack >"$state/log" 2>&1; then
		rm -rf "$fresh/apt" "$fresh/debs"
		mv -T "$fresh" "$cache/$major" 2>/dev/null || [ -d "$cache/$major" ] # otherwise another process was first
	else
		tail -n 3 "$state/log"
		return 1
	fi
}

# unpack downloads into $fresh what version $major needs to run: the server, its client and the libraries. It leaves out LLVM,
# which is larger than all the rest, so there is no just-in-time compilation.
unpack() {
	apt_get update &&
		packages=$(apt_get -s install --no-install-recommends "postgresql-$major" patchelf |
			sed -n 's/^Inst \([^ ]*\).*/\1/p' | grep -E "^(postgresql(-client)?-$major|lib.*|zlib1g|patchelf)$" | grep -v '^libllvm') &&
		(
			cd "$fresh/debs"
			# shellcheck disable=SC2086 # one word for each package
			apt_get download $packages
		) || return
	for deb in "$fresh"/debs/*.deb; do
		dpkg-deb -x "$deb" "$fresh" || return
	done
	rm -f "$fresh/usr/lib/postgresql/$major/lib/"llvmjit*
	relink
}

# relink makes the programs use the loader and the libraries from the cache.
relink() {
	triplet=$(basename "$(dirname "$(find "$fresh" -name 'libc.so.6' | head -n 1)")")
	loader=$(find "$fresh" -path '*lib*/ld-linux*' | head -n 1)
	home=$cache/$major
	libraries=$home/lib/$triplet:$home/usr/lib/$triplet
	tool="$loader --library-path $fresh/lib/$triplet:$fresh/usr/lib/$triplet $fresh/usr/bin/patchelf"
	for program in "$fresh/usr/lib/postgresql/$major/bin"/*; do
		$tool --force-rpath --set-rpath "$libraries" --set-interpreter "$home${loader#"$fresh"}" "$program" || return
	done
}

failed=
for major in "$@"; do
	bin=/usr/lib/postgresql/$major/bin
	[ -x "$bin/pg_rewind" ] || bin=$cache/$major/usr/lib/postgresql/$major/bin
	if [ ! -x "$bin/pg_rewind" ] && ! why=$(fetch "$major"); then
		echo "== PostgreSQL $major: skipped: $why"
		continue
	fi
	if ! version=$("$bin/postgres" --version 2>&1); then
		echo "== PostgreSQL $major: skipped: it does not run here: $version"
		continue
	fi
	began=$(date +%s)
	verdict=ok
	(cd integration && HASQL_REQUIRE_POSTGRES=1 PGBINDIR=$bin go test $race -count 1 -timeout 5m -run "$core" -p 1 . ./chaos) || verdict=FAILED
	[ $verdict = ok ] || failed="$failed $major"
	echo "== PostgreSQL ${version#* * }: $verdict, $(($(date +%s) - began)) s"
done
if [ -n "$failed" ]; then
	echo "FAILED:$failed" >&2
	exit 1
fi
