# Everything here works on a fresh machine with Python 3.11, Rust and gcc; what else it needs it installs itself.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find native -path '*/target' -prune -o \( -name '*.rs' -o -name '*.pyx' -o -name '*.pxi' -o -name 'Cargo.*' \) -print)
export PYO3_PYTHON := $(abspath $(BIN)/python)
# maturin is called by name.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help build native demo test crash-test check fmt bench cluster-test gpu-bundle oracle-test proto wheels clean

# One process a core. Each takes tests from the one that has most left, so that a long file at the end keeps none idle;
# tests of one file stay together otherwise, and share what the file sets up.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

# Cases of `make oracle-test`, and the seed of the first.
N ?= 10000
SEED ?= 1

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: .make/native .make/mock .make/daemon ## the virtual environment, the native modules, the mock NVML

.make/venv: pyproject.toml constraints.txt
	@mkdir -p .make
	@test -x $(BIN)/python || { echo "==> virtual environment"; $(PYTHON) -m venv $(VENV); }
	@echo "==> Python packages"
	@$(BIN)/pip install -q --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/pip install -q -c constraints.txt --group build --group test --group check hatchling editables
	@touch $@

.make/native: .make/venv $(NATIVE)
	@echo "==> native modules (Rust and Cython; about a minute the first time)"
	@flock .make/lock $(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[kubeconfig,demo,plots]'
	@touch $@

.make/mock: .make/venv $(NATIVE) native/mock-nvml/pyproject.toml $(wildcard native/mock-nvml/portraits/*)
	@echo "==> mock NVML"
	@flock .make/lock $(BIN)/pip install -q --no-build-isolation -e native/mock-nvml
	@touch $@

# The probe of IMEX daemons: static, because it runs every second in a container that may have any C library.
.make/daemon: native/Cargo.lock $(wildcard native/domain-daemon/src/* native/domain-daemon/Cargo.toml)
	@mkdir -p .make
	@echo "==> the daemon's probe"
	@cd native/domain-daemon && cargo rustc -q --release --bin compute-domain-daemon --target-dir ../target/static -- \
		-C target-feature=+crt-static -C strip=symbols -C panic=abort
	@touch $@

native: .make/native .make/mock

demo: build ## the main job on mock GPUs: no cluster, no hardware
	@$(BIN)/nvdra demo

test: build ## every test that needs no cluster and no GPU
	@tests/packages
	@cargo test -q --no-run --manifest-path native/Cargo.toml --workspace --exclude nvdra-py
	@timeout 300 cargo test -q --manifest-path native/Cargo.toml --workspace --exclude nvdra-py
	@$(PYTEST)

crash-test: build ## every death of every crash story; `make test` runs one in four
	@tests/packages
	@$(PYTEST) tests/crash --crash-sample=1

check: build ## lint, types, arrows between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cargo fmt --manifest-path native/Cargo.toml --all --check
	cargo clippy -q --manifest-path native/Cargo.toml --workspace --all-targets -- -D warnings
	$(BIN)/python -m mypy.stubtest nvdra._core nvdra._nvml

fmt: build ## format all sources
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .
	cargo fmt --manifest-path native/Cargo.toml --all

.make/bench-allocation: .make/oracle-1.37 $(NATIVE)
	@cargo build -q --release --manifest-path native/Cargo.toml -p nvdra-alloc --example answers
	@touch $@

bench: build .make/bench-allocation ## every speed and memory claim, as ratios within one run
	@$(BIN)/python -m benchmarks

cluster-test: build ## a real control plane, kubelet and containerd (first time: builds them, about 20 minutes)
	@$(BIN)/python -m tests.cluster

gpu-bundle: build ## in build/gpu-bundle/: the real cluster with the driver on it, for a machine with GPUs and no network
	@$(BIN)/python -m tests.cluster.real_gpu.bundle build/gpu-bundle

.make/oracle-%: tests/oracle/main.go tests/oracle/v%/release.go tests/oracle/v%/go.mod
	@mkdir -p .make
	@echo "==> oracle: the allocator of Kubernetes $* (Go; minutes the first time)"
	@cd tests/oracle/v$* && go build -ldflags='-s -w' -o $(abspath $@) .

RELEASES := 1.34 1.35 1.36 1.37

oracle-test: build $(RELEASES:%=.make/oracle-%) ## the allocation engine against the schedulers' own allocators: their tables, N random cases from SEED
	@cargo build -q --profile quick --manifest-path native/Cargo.toml -p nvdra-alloc --example answers
	@failed=; for release in $(RELEASES); do \
	  $(BIN)/python -m tests.oracle --release $$release --tables --cases $(N) --seed $(SEED) --workers $$(nproc) || failed=1; \
	done; test -z "$$failed"

proto: .make/venv ## the kubelet's gRPC stubs from proto/
	@$(BIN)/pip install -q -c constraints.txt --group proto
	@proto/generate $(BIN)

wheels: .make/venv ## in dist/: one for each Python 3.11 to 3.13 here, one of the mock; audited, and tried with the demo
	@$(BIN)/pip install -q -c constraints.txt --group wheels
	@deploy/wheels

clean: ## remove everything built here
	rm -rf .make $(VENV) build dist native/target
