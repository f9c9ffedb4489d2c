#!/usr/bin/env bash
# Installs what fleet needs on a Debian 12 machine and does not find: packages by apt, the telemetry server by cargo.
# Says in one line what it does, does nothing when nothing is missing, and can be repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/packages.sh"

needs=(
    /usr/bin/linux.uml:user-mode-linux
    /usr/bin/qemu-system-x86_64:qemu-system-x86
    /usr/bin/dpkg-deb:dpkg
    /usr/bin/cmake:cmake
    /usr/bin/cc:gcc
    /usr/bin/c++:g++
    /usr/lib/x86_64-linux-gnu/libc.a:libc6-dev
    /usr/sbin/ip:iproute2
    /usr/bin/curl:curl
    /usr/bin/busybox:busybox
    /usr/bin/umockdev-run:umockdev
    /usr/bin/make:make
    /usr/bin/ld:binutils
    /usr/bin/flex:flex
    /usr/bin/bison:bison
    /usr/bin/bc:bc
    /usr/bin/xz:xz-utils
    /usr/bin/perl:perl
    /usr/include/libelf.h:libelf-dev
    /usr/bin/mkfs.erofs:erofs-utils
)
command -v cargo >/dev/null || {
    echo "error: cargo is not installed" >&2
    echo "  help: install Rust 1.90 or newer (https://rustup.rs), then repeat" >&2
    exit 1
}
install_missing "${needs[@]}"
"$here/telemetry-server.sh"
