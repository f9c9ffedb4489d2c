#!/bin/sh
# Installs the MongoDB-protocol server that fleet runs when no other is given: secantusd-rs, a program of its own
# (GPL-2.0-only), built by cargo into the user's cache of tools. Does nothing if this version is there already.
set -eu

version=0.5.3-beta.196
tools="${XDG_CACHE_HOME:-$HOME/.cache}/fleet/tools"
program="$tools/bin/secantusd-rs"

if [ -x "$program" ] && "$program" --version 2>/dev/null | grep -qF "$version"; then
    echo "telemetry server: secantusd-rs $version is in $tools/bin"
    exit 0
fi

missing() {
    echo "telemetry server: $1 is missing; $2" >&2
    exit 1
}
command -v cargo >/dev/null || missing cargo "install Rust from https://rustup.rs"
command -v cmake >/dev/null || missing cmake "run: apt-get install -y cmake"
command -v c++ >/dev/null || missing "a C++ compiler" "run: apt-get install -y g++"

echo "telemetry server: building secantusd-rs $version into $tools (once, some minutes)"
# Its own target folder: a build must neither use nor fill that of a project one happens to stand in.
build="$(mktemp -d)"
trap 'rm -rf "$build"' EXIT INT TERM
# Its profile optimises across all crates in one unit each: minutes more, for a server that waits for its disk.
CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR="$build" cargo install secantus-mdb --version "=$version" --ignore-rust-version \
    --root "$tools" --quiet
