# Everything that a newcomer needs: `make demo` and `make test`. Both install what is missing first, and can be repeated.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO  ?= cargo
TARGET := target/debug
INIT   := target/x86_64-unknown-linux-gnu/guest/fleet-init
# What `build` builds. All of the workspace shares the features of its dependencies, the tests' among them; a package alone has
# only its own, and other features are another build of every dependency: who wants all does not begin with a part.
PART   := --package fleet-controller
# A fleet of the demo's own, beside whatever else runs on this machine.
DEMO_ROOT ?= /tmp/fleet-demo
# How long `make fuzz` looks for wrong answers.
FUZZ_SECONDS ?= 600
# What the benchmarks start, how many and how often.
BENCH_IMAGE ?= tiny-kernels
N ?= 1000
RUNS ?= 1

.PHONY: help setup small-qemu build release install init images kernels demo test test-usb-host test-small-qemu lint unit fuzz fuzz-short bench bench-boot bench-ksm bench-lang bench-tree sim clean
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Install what is missing: Debian packages and the telemetry server
	@deploy/setup.sh

small-qemu: ## Build a QEMU of what fleet uses only: a clone takes 13 MB, not 21
	@deploy/small-qemu.sh

build: init ## Build fleet and the guests' init (debug)
	@echo "fleet: building the program"
	@$(CARGO) build --quiet $(PART)

init:
	@echo "fleet: building the guests' init, a static program"
	@$(CARGO) rustc --quiet --profile guest --package fleet-init --target x86_64-unknown-linux-gnu -- \
	    -C target-feature=+crt-static -C relocation-model=static

release: init ## Build the optimised fleet
	@echo "fleet: building the optimised program"
	@$(CARGO) build --quiet --release --package fleet-controller

install: release ## Install fleet into /usr/local
	@install -D -m 755 target/release/fleet $(DESTDIR)/usr/local/bin/fleet
	@install -D -m 755 $(INIT) $(DESTDIR)/usr/local/lib/fleet/fleet-init
	@small="$${XDG_CACHE_HOME:-$$HOME/.cache}/fleet/tools/bin/fleet-qemu"; [ ! -x "$$small" ] || \
	    install -D -m 755 "$$small" $(DESTDIR)/usr/local/bin/fleet-qemu
	@install -D -m 644 -t $(DESTDIR)/usr/local/lib/systemd/system deploy/systemd/*.service
	@install -D -m 644 -t $(DESTDIR)/usr/local/share/doc/fleet README.md docs/*.md
	@echo "fleet: installed /usr/local/bin/fleet"

images: build
	@echo "fleet: building the guest image tiny, if it is not there"
	@$(TARGET)/fleet image build tiny

kernels: build ## Build both tiny kernels into the user's cache, if they are not there
	@echo "fleet: building the tiny kernels for the tests, if they are not there (minutes, once)"
	@$(TARGET)/fleet image build tiny --name tiny-kernels --kernel tiny-uml --kernel tiny-x86

camera-image: build
	@echo "fleet: building the guest image camera, if it is not there"
	@$(TARGET)/fleet image build camera

demo: setup build images ## Bring examples/hello.fleet up, look at it, and take it down
	@deploy/demo.sh $(TARGET)/fleet $(DEMO_ROOT)

lint: ## Formatting and clippy, as `make test` checks them
	@echo "fleet: checking the formatting"
	@$(CARGO) fmt --all --check
	@echo "fleet: running clippy"
	@$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings

unit: ## Only the tests that start no VM and need no root
	@$(CARGO) test --quiet -p netlang -p fleet-wire -p fleet-telemetry --lib

fuzz: ## Look for inputs that break a promise of the language, or bytes of cameras that break one, for FUZZ_SECONDS each
	@$(CARGO) run --quiet --package netlang-fuzz -- --seconds $(FUZZ_SECONDS)
	@$(CARGO) run --quiet --package fleet-usb-fuzz -- --seconds $(FUZZ_SECONDS)

fuzz-short: build
	@echo "fleet: looking for inputs that break a promise, 20 s each"
	@$(TARGET)/netlang-fuzz --seconds 20
	@$(TARGET)/fleet-usb-fuzz --seconds 20

test: PART := --workspace --all-targets
test: setup build images camera-image kernels lint fuzz-short ## Every test, with real VMs, networks and a real telemetry server
	@echo "fleet: running every test"
	@FLEET_INIT=$(abspath $(INIT)) FLEET_BIN=$(abspath $(TARGET)/fleet) $(CARGO) test --workspace --all-targets --no-fail-fast

test-usb-host: setup build ## The path of a camera on a USB port, in a guest that plays the host with hardware
	@FLEET_INIT=$(abspath $(INIT)) $(CARGO) test --quiet --package fleet-usbexport --test usb_host -- --ignored --nocapture \
	    --exact a_camera_on_a_port_is_found_exported_and_given_to_qemu_by_descriptor

test-small-qemu: setup small-qemu build ## VMs on the small QEMU, which `make test` does without
	@FLEET_INIT=$(abspath $(INIT)) $(CARGO) test --quiet --package fleet-vm --test it -- --include-ignored --skip common::daemon

bench: bench-lang bench-boot bench-ksm bench-tree bench-usb ## Measure everything, and write docs/benchmarks.md

bench-boot: setup small-qemu release kernels ## Measure the start of N VMs beside a bare loop, and write its section
	@$(CARGO) run --quiet --release --package fleet-bench -- --fleet target/release/fleet --image $(BENCH_IMAGE) \
	    --count $(N) --runs $(RUNS) --out docs/benchmarks.md

bench-lang: ## Measure the language only, and write its section of docs/benchmarks.md
	@$(CARGO) run --quiet --release --package netlang-bench -- --out docs/benchmarks.md

# Clones for each regulator; N=... on the command line goes before it.
bench-ksm: N = 200
# Seconds that are watched after nine tenths were merged, and other options of the program.
AFTER ?= 600
BENCH_KSM ?=
bench-ksm: setup small-qemu kernels ## Measure regulators of KSM on N=200 clones for AFTER=600 s each, and write their section and plot
	@$(CARGO) run --quiet --release --package fleet-bench-ksm -- --count $(N) --after $(AFTER) --out docs/benchmarks.md $(BENCH_KSM)

# Options of the program: numbers of hosts, runs.
BENCH_TREE ?=
bench-tree: ## Measure what a wave over many hosts costs, and write its section
	@$(CARGO) run --quiet --release --package fleet-bench-tree -- --out docs/benchmarks.md $(BENCH_TREE)

# Options of the program: bytes of the picture, runs, only the floor.
BENCH_USB ?=
bench-usb: setup release camera-image ## Measure what is between a camera and a guest, beside QEMU alone, and write its section
	@FLEET_INIT=$(abspath $(INIT)) FLEET_BIN=$(abspath target/release/fleet) \
	    $(CARGO) run --quiet --release --package fleet-bench-usb -- --out docs/benchmarks.md $(BENCH_USB)

# The fleet of `make sim`, and where its chance comes from.
SIM  ?= --hosts 100000 --vms 1000000 --latency 1ms --fail 1% --steps 12
SEED ?= 1
sim: ## Simulate 100,000 hosts and 1,000,000 VMs under faults (SEED=1), and check what must always hold
	@$(CARGO) run --quiet --release --package fleet-controller -- sim $(SIM) --seed $(SEED)

clean: ## Remove what was built here (images and downloads stay in their caches)
	@$(CARGO) clean
