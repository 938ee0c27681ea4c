#!/bin/sh
# Makes the root filesystem of the image: what a job linked against Debian's C library needs, and a small shell to look around.
#
#   rootfs.sh DIR
#
# Where apt is, from Debian's packages: nothing is installed, root is not needed. Where it is not, this runs in such a filesystem
# already (see base.sh) and copies it.
set -eu
mkdir -p "$1"
root=$(cd "$1" && pwd)

if ! command -v apt-get >/dev/null; then
  for entry in /*; do
    case $entry in /dev | /proc | /sys | /rootfs*) ;; *) cp -a "$entry" "$root/" ;; esac
  done
  # Docker's own, put over every container.
  rm -f "$root/etc/hostname" "$root/etc/hosts" "$root/etc/resolv.conf"
  exit 0
fi

# C library and unwinder, certificates for jobs that speak TLS, init, shell.
packages='base-files libc6 libgcc-s1 ca-certificates tini busybox'
debs=$(mktemp -d)
cd "$debs"
# shellcheck disable=SC2086 # a list
apt-get download -q $packages || { apt-get update -q && apt-get download -q $packages; }
for deb in ./*.deb; do dpkg-deb -x "$deb" "$root"; done
cd "$root"
rm -rf "$debs" usr/share/man usr/share/lintian usr/share/locale usr/lib/*/gconv
find usr/share/doc -type f ! -name copyright -delete

for applet in $(bin/busybox --list-full); do
  case $applet in */*) ;; *) continue ;; esac
  [ -e "$applet" ] || { mkdir -p "${applet%/*}" && ln -s /bin/busybox "$applet"; }
done
mkdir -p etc/ssl/certs
cat usr/share/ca-certificates/mozilla/*.crt >etc/ssl/certs/ca-certificates.crt
# Number as in Flink's image, so that its volumes can be used.
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'perennial:x:9999:9999:perennial:/opt/perennial:/bin/sh' >etc/passwd
printf '%s\n' 'root:x:0:' 'perennial:x:9999:' >etc/group
echo 'hosts: files dns' >etc/nsswitch.conf
mkdir -p dev proc sys tmp
chmod 1777 tmp
