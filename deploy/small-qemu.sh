#!/usr/bin/env bash
# Builds fleet-qemu into the user's cache of tools: QEMU's microvm and nothing else, in one static program, from the
# distribution's own source of the QEMU that is installed. fleet runs VMs without USB with it when it is there (docs/vm.md
# says what it saves). Does nothing if it is there already, and can be repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/packages.sh"

# How it is built, by content: what changes here or in the patches makes another program.
recipe=$(cat "$here/small-qemu.sh" "$here"/small-qemu/*.patch | sha256sum | cut -c1-8)
tools="${XDG_CACHE_HOME:-$HOME/.cache}/fleet/tools"
program="$tools/bin/fleet-qemu"

install_missing /usr/bin/qemu-system-x86_64:qemu-system-x86 /usr/bin/dpkg-source:dpkg-dev /usr/bin/patch:patch /usr/bin/cc:gcc /usr/bin/make:make \
    /usr/bin/ninja:ninja-build /usr/bin/meson:meson /usr/bin/python3:python3 /usr/bin/pkg-config:pkg-config \
    /usr/include/zlib.h:zlib1g-dev /usr/include/glib-2.0/glib.h:libglib2.0-dev /usr/include/libfdt.h:libfdt-dev \
    /usr/include/pixman-1/pixman.h:libpixman-1-dev
version=$(dpkg-query -W -f='${source:Version}' qemu-system-x86)
# QEMU's programs have this in what they say of their version.
mark="fleet $recipe, Debian $version"
if [ -x "$program" ] && "$program" --version 2>/dev/null | grep -qF "($mark)"; then
    echo "small QEMU: $version is in $tools/bin"
    exit 0
fi

echo "small QEMU: building QEMU $version without what fleet does not use into $tools/bin (once, some minutes)"
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT INT TERM
log="$build/log"
fail() {
    tail -n 20 "$log" >&2
    echo "error: small QEMU: $1" >&2
    exit 1
}

# The sources of what the machine gets its packages from, in lists of their own: the machine's are left as they are.
apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' 'Target-Of: deb' \
    'Origin: Debian' | sort -u >"$build/sources.list"
mkdir -p "$build/lists/partial" "$build/source"
apt=(apt-get -q -o "Dir::Etc::SourceList=$build/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$build/lists"
    -o APT::Sandbox::User=root)
"${apt[@]}" update >"$log" 2>&1 || fail "apt-get cannot list the sources: check the network and apt's sources"
(cd "$build/source" && "${apt[@]}" source "qemu=$version") >>"$log" 2>&1 ||
    fail "apt has no source of QEMU $version: run \`apt-get update && apt-get install qemu-system-x86\`, then repeat"
source=$(echo "$build"/source/qemu-*/)

# Q35 is there because the program does not link without a machine of the old kind.
cat >"$source/configs/devices/x86_64-softmmu/fleet.mak" <<'END'
CONFIG_PCI_DEVICES=n
CONFIG_Q35=y
CONFIG_MICROVM=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_NET=y
CONFIG_ISA_DEBUG=y
END
for patch in "$here"/small-qemu/*.patch; do
    patch -d "$source" -p1 <"$patch" >>"$log" 2>&1 || fail "$patch does not fit this version: mend it"
done

mkdir "$build/out"
cd "$build/out"
# Static and at a fixed place: nothing is relocated, so the pages of all processes stay one another's. Firmware is looked for
# relative to where the program is, hence its place.
"$source/configure" --prefix=/usr --bindir="$tools/bin" --firmwarepath=/usr/share/qemu:/usr/share/seabios \
    --with-pkgversion="$mark" --target-list=x86_64-softmmu --without-default-features --without-default-devices \
    --with-devices-x86_64=fleet --static --disable-pie --enable-system --enable-tcg --enable-kvm --enable-fdt=system --enable-avx2 \
    --enable-coroutine-pool --enable-malloc-trim --disable-tools --disable-docs --audio-drv-list= --disable-debug-info \
    --disable-install-blobs --extra-cflags="-ffunction-sections -fdata-sections" --extra-ldflags=-Wl,--gc-sections \
    >>"$log" 2>&1 || fail "it cannot be configured"
ninja qemu-system-x86_64 >>"$log" 2>&1 || fail "it does not compile"
mkdir -p "$tools/bin"
strip -o "$program.new" qemu-system-x86_64
mv "$program.new" "$program"
