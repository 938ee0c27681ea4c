#!/bin/sh
# Makes the base image where no registry is reached, from Debian's packages:
#
#   base.sh [IMAGE]        then: docker build --build-arg BASE=IMAGE …
set -eu
image=${1:-perennial-base}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
"$(dirname "$0")/rootfs.sh" "$root"
tar -C "$root" --numeric-owner --owner=0 --group=0 -c . | docker import - "$image"
