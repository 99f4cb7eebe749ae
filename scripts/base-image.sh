#!/bin/sh
# Finds the images that docker-compose.yml builds on, and prints their names for Compose:
#
#   scripts/base-image.sh >.env
#
# It uses the images of Debian and Go, from this machine or from the registry. If no registry can be reached, it makes two
# images: one with debootstrap, and one that also has the Go and the certificate authorities of this machine. That needs
# root, or sudo without a password, a Debian mirror, and one to two minutes.
set -eu

cd "$(dirname "$0")/.."
base=debian:bookworm-slim
go=golang:1.26-bookworm
made_base=hasql-base:bookworm
made_go=hasql-go:bookworm

# pull_limit is how long the registry may take for each image, in seconds.
pull_limit=300

found() { docker image inspect "$1" "$2" >/dev/null 2>&1; }

pulled() {
	for image in "$@"; do
		timeout $pull_limit docker pull --quiet "$image" >/dev/null 2>&1 || return
	done
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# make_images makes both images from one folder.
make_images() {
	echo "No registry has $base and $go: making $made_base and $made_go."
	scripts/need.sh debootstrap certs
	goroot=$(go env GOROOT)
	scratch=$(mktemp -d)
	trap 'as_root rm -rf "$scratch"' EXIT
	trap 'exit 130' INT TERM
	root=$scratch/root
	as_root debootstrap --variant=minbase bookworm "$root" "$(mirror)" >"$scratch/log" 2>&1 || {
		tail -n 20 "$scratch/log"
		return 1
	}
	# The image gets its packages through the same proxy as this machine.
	apt-config dump 2>/dev/null | grep -E '^Acquire::https?::Proxy ' | as_root tee "$root/etc/apt/apt.conf.d/90proxy" >/dev/null || true
	import "$root" $made_base
	as_root mkdir -p "$root/usr/local/go" "$root/etc/ssl/certs"
	as_root cp -a "$goroot/." "$root/usr/local/go"
	as_root cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	import "$root" $made_go --change 'ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

# mirror prints the address from which this machine gets its Debian packages.
mirror() {
	# shellcheck disable=SC2016 # apt-get itself fills this in
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | grep -v security | head -n 1
}

import() {
	root=$1 image=$2
	shift 2
	as_root tar -C "$root" --exclude './var/cache/apt/*.bin' --exclude './var/cache/apt/archives/*.deb' \
		--exclude './var/lib/apt/lists/*' -c . | docker import "$@" - "$image"
}

if ! found $base $go && { found $made_base $made_go || ! pulled $base $go; }; then
	found $made_base $made_go || make_images >&2
	base=$made_base go=$made_go
fi
echo "BASE_IMAGE=$base"
echo "GO_IMAGE=$go"
