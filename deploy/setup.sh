#!/usr/bin/env bash
# Installs what fleet needs on a Debian 12 machine and does not find: packages by apt, the telemetry server by cargo.
# Says in one line what it does, does nothing when nothing is missing, and can be repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# What a package brings, as a path: asking dpkg for each would be slower and would not notice a broken installation.
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
missing=()
for need in "${needs[@]}"; do
    path=${need%%:*}
    # Debian merged /usr, but not everywhere and not for every package.
    [ -e "$path" ] || [ -e "${path#/usr}" ] || missing+=("${need##*:}")
done

command -v cargo >/dev/null || {
    echo "error: cargo is not installed" >&2
    echo "  help: install Rust 1.90 or newer (https://rustup.rs), then repeat" >&2
    exit 1
}
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "error: ${missing[*]} missing, and only root can install packages" >&2
        echo "  help: run this as root, or: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "fleet: installing Debian packages: ${missing[*]}"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "error: apt-get could not install them" >&2
        exit 1
    fi
else
    echo "fleet: all packages are here"
fi
"$here/telemetry-server.sh"
