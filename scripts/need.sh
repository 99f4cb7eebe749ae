#!/bin/sh
# Checks that everything is installed that the Makefile's targets need besides Go, and installs what is missing where it may.
#
#   scripts/need.sh [postgres] [cc] [libpq] [make] [certs] [netns] [patroni] [poolers] [chromium] [docker] [debootstrap]
#
# If everything is there it prints nothing. Where apt-get is available and the user may use it (root, or sudo without a
# password), it installs what is missing. It creates no PostgreSQL server, and it starts and enables no service. It never
# installs Docker. If it cannot install something, it prints what to install and exits with 2.
set -eu

# has_postgres looks in the same places as internal/pgcluster.
has_postgres() {
	if [ -n "${PGBINDIR:-}" ]; then
		complete "$PGBINDIR"
		return
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin; do
		complete "$dir" && return
	done
	postgres=$(command -v postgres) && complete "$(dirname "$(readlink -f "$postgres")")"
}

complete() {
	for program in postgres initdb pg_basebackup pg_rewind pg_controldata; do
		[ -x "$1/$program" ] || return 1
	done
}

# has_cc looks for the C compiler of cgo, which the race detector needs. If cgo is turned off, none is needed.
has_cc() {
	[ "${CGO_ENABLED:-}" != 0 ] || return 0
	cc=$(go env CC) && command -v "${cc%% *}" >/dev/null && echo '#include <stdlib.h>' | "${cc%% *}" -E - >/dev/null 2>&1
}

# has_libpq looks for the header files that internal/dsn/testdata/libpq.c needs. That program is used on Linux only.
has_libpq() {
	[ "$(uname)" = Linux ] || return 0
	include=$(pg_config --includedir 2>/dev/null) || return
	echo '#include <libpq-fe.h>' | cc -I"$include" -E - >/dev/null 2>&1
}

has_make() { command -v make >/dev/null; }

# has_certs looks for the certificate authorities of Debian and Ubuntu, which go needs for downloading modules.
has_certs() {
	[ -n "${SSL_CERT_FILE:-}${SSL_CERT_DIR:-}" ] || [ -e /etc/ssl/certs/ca-certificates.crt ] || ! command -v apt-get >/dev/null
}

# has_patroni and has_poolers look in the same places as internal/pgcluster.
has_patroni() { has_programs patroni etcd; }
has_poolers() { has_programs pgbouncer haproxy; }

has_programs() {
	for program in "$@"; do
		PATH="$PATH:/usr/local/sbin:/usr/sbin" command -v "$program" >/dev/null || return 1
	done
}

# has_netns looks for the programs that tests of partitions use. Where the user may not make network namespaces these tests
# are skipped, so nothing is needed.
has_netns() {
	! unshare --net true 2>/dev/null || { command -v ip && command -v iptables; } >/dev/null || ! command -v apt-get >/dev/null
}

# has_chromium looks for the same programs as the tests in cmd/hasql/browser.
has_chromium() {
	for program in chromium chromium-browser google-chrome; do
		command -v "$program" >/dev/null && return
	done
	return 1
}

# has_docker looks for an engine that answers, and for Compose in either version.
has_docker() {
	docker version >/dev/null 2>&1 && { docker compose version || docker-compose version; } >/dev/null 2>&1
}

has_debootstrap() { has_programs debootstrap; }

# packages_for has no package for Docker: its engine runs as root and changes the machine's network rules, so the owner of
# the machine has to decide that.
packages_for() {
	case $1 in
	postgres) echo postgresql ;;
	cc) echo gcc libc6-dev ;;
	libpq) echo libpq-dev gcc libc6-dev ;;
	make) echo make ;;
	certs) echo ca-certificates ;;
	patroni) echo patroni etcd-server etcd-client python3-etcd ;;
	poolers) echo pgbouncer haproxy ;;
	netns) echo iproute2 iptables ;;
	chromium) echo chromium fonts-inter ;;
	debootstrap) echo debootstrap ;;
	esac
}

hint_for() {
	case $1 in
	postgres)
		cat <<-'EOF'
			PostgreSQL's server programs, version 13 or newer (no server needs to run):
			  Debian, Ubuntu:  apt-get install postgresql
			  Fedora, RHEL:    dnf install postgresql-server
			  Alpine:          apk add postgresql postgresql-client
			or set PGBINDIR to the folder that holds postgres, initdb, pg_basebackup, pg_rewind and pg_controldata.
		EOF
		;;
	cc) echo "A C compiler, for the race detector: apt-get install gcc libc6-dev" ;;
	libpq)
		cat <<-'EOF'
			libpq's header files and a C compiler, to compare how DSNs are read:
			  Debian, Ubuntu:  apt-get install libpq-dev gcc libc6-dev
			  Fedora, RHEL:    dnf install libpq-devel gcc
			  Alpine:          apk add libpq-dev gcc musl-dev
		EOF
		;;
	make) echo "make: apt-get install make" ;;
	certs) echo "Certificate authorities, for downloading Go modules: apt-get install ca-certificates" ;;
	patroni) echo "Patroni and etcd: apt-get install patroni etcd-server etcd-client python3-etcd" ;;
	poolers) echo "PgBouncer and HAProxy: apt-get install pgbouncer haproxy" ;;
	netns) echo "ip and iptables, for tests of partitions: apt-get install iproute2 iptables" ;;
	chromium) echo "Chromium, for tests of the demo's page: apt-get install chromium" ;;
	docker)
		cat <<-'EOF'
			A running Docker engine that you may use (check with docker version), and Docker Compose:
			  Debian, Ubuntu:  apt-get install docker.io docker-compose; systemctl start docker
			  elsewhere:       https://docs.docker.com/engine/install/
		EOF
		;;
	debootstrap) echo "debootstrap, for base images without a registry: apt-get install debootstrap" ;;
	esac
}

# as_root runs a command as root. It fails if the user may not do that.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo -n "$@"
	fi
}

may_install() {
	command -v apt-get >/dev/null || return 1
	[ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

# install_packages installs packages of Debian and Ubuntu. Their services are not started: a policy forbids that during the
# installation (see the manual of invoke-rc.d), and the machine's own policy is restored afterwards. The services are also not
# started at the next boot.
install_packages() {
	apt_get update || true # the packages may be there although one source is broken
	services=
	for program in patroni etcd pgbouncer haproxy; do
		has_programs $program || services="$services $program"
	done
	policy=/usr/sbin/policy-rc.d
	[ ! -e $policy ] || [ -e $policy.hasql ] || as_root mv -f $policy $policy.hasql || return
	as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy" || return
	result=0
	install_without_cluster "$@" || result=$?
	as_root rm -f $policy
	[ ! -e $policy.hasql ] || as_root mv -f $policy.hasql $policy || return
	for service in $services; do
		as_root systemctl disable "$service" || true # the service was not installed, or there is no systemd
	done
	return $result
}

# install_without_cluster installs packages. A setting of postgresql-common keeps Debian's PostgreSQL from making a cluster on
# port 5432; the old setting is restored afterwards.
install_without_cluster() {
	case " $* " in
	*" postgresql "*) ;;
	*)
		apt_get install -y --no-install-recommends "$@"
		return
		;;
	esac
	conf=/etc/postgresql-common/createcluster.conf
	apt_get install -y --no-install-recommends postgresql-common || return
	as_root cp -p "$conf" "$conf.hasql" || return
	status=0
	as_root sh -c "echo 'create_main_cluster = false' >>$conf" &&
		apt_get install -y --no-install-recommends "$@" || status=$?
	as_root mv -f "$conf.hasql" "$conf" || return
	return $status
}

missing=
for need in "$@"; do
	"has_$need" || missing="$missing $need"
done
[ -n "$missing" ] || exit 0

if [ -n "${PGBINDIR:-}" ]; then
	case $missing in
	*postgres*)
		echo "PGBINDIR is $PGBINDIR, which does not hold PostgreSQL's server programs." >&2
		exit 2
		;;
	esac
fi

packages=
for need in $missing; do
	for package in $(packages_for "$need"); do
		packages="$packages $package"
	done
done
if [ -n "$packages" ] && may_install; then
	echo "Installing with apt-get:$packages"
	# One installation at a time: the tests and the images for containers may be prepared at the same time.
	exec 9<"$(command -v apt-get)"
	flock 9
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	# shellcheck disable=SC2086 # one word for each package
	if install_packages $packages >"$log" 2>&1; then
		still=
		for need in $missing; do
			"has_$need" || still="$still $need"
		done
		[ -n "$still" ] || exit 0
		missing=$still
	fi
	cat "$log" >&2
	echo "The installation failed. Please install by hand:" >&2
else
	echo "Missing on this machine, and this user may not install it. Please install:" >&2
fi
for need in $missing; do
	hint_for "$need" >&2
done
exit 2
