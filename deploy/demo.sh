#!/usr/bin/env bash
# The main job from start to end: up, ps, the proved checks, telemetry, down. Leaves nothing behind.
set -euo pipefail
fleet=$(realpath "$1")
export FLEET_ROOT=$2
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
run() { say "$*"; shift; "$fleet" "$@"; }
trap '"$fleet" down >/dev/null 2>&1 || true' EXIT

say "cat examples/hello.fleet"
cat examples/hello.fleet
run fleet up examples/hello.fleet
run fleet ps
run fleet exec hello -- hostname
# The first samples are in the database within two sampling intervals.
for _ in $(seq 30); do
    rows=$("$fleet" telemetry query hello --metric cpu,memory --since 2m --format csv 2>/dev/null | wc -l) || rows=0
    [ "$rows" -gt 2 ] && break
    sleep 1
done
run fleet telemetry query hello --metric cpu,memory --since 2m --bucket 10s
run fleet telemetry query hello --events --since 2m
run fleet down hello
trap - EXIT
