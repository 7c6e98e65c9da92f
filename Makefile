# One word each. `make run` and `make test` need nothing but Debian and Rust: they install what is missing, and say so.

SHELL := /bin/bash
# Build output stays outside the clone, so that a fresh clone is warm and a clean one small.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/processor/target
PROCESSOR := $(CARGO_TARGET_DIR)/release/processor
ARGS ?=

.PHONY: run sim mutants test campaigns test-all storm build clean lint fmt install-tools libraries bench check unit kafka help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

run: install-tools build ## the demo: every role in one process; make run ARGS="--for 30s"
	@$(PROCESSOR) demo $(ARGS)

build: libraries ## build a release, and link ./processor to it; PORTABLE=1 for processors from before 2010
	@echo "building processor; the first build takes about 5 minutes on two cores, and a later one about 2" >&2
	@cargo build --release --locked
	@ln -sfn $(PROCESSOR) processor
	@echo "built: ./processor" >&2

libraries: ## RocksDB, once for this machine
	@scripts/rocksdb $(if $(PORTABLE),--portable)

test: install-tools libraries ## all tests but the campaigns, with a real broker that the tests start themselves; make test NAME=part_of_a_name
	@scripts/run-tests --workspace --features faults $(ARGS) -- $(NAME)

# Programs that need the feature `campaigns` (Cargo.toml).
CAMPAIGNS := $(shell awk '/^name = / { name = $$3 } /^required-features = .*"campaigns"/ { gsub("\"", "", name); print "--test " name }' Cargo.toml)

# One at a time: each is five roles and a broker or three, with bounds on how long they may take.
campaigns: install-tools libraries ## the tests that take minutes each: crash points, kills, a storm, repairs; make campaigns NAME=kills::
	@JOBS=$(or $(JOBS),1) scripts/run-tests --workspace --features campaigns,faults $(CAMPAIGNS) -- $(NAME)

test-all: test campaigns ## every test there is

storm: install-tools libraries ## everything that can go wrong, on three brokers; make storm MINUTES=10 SEED=1
	@MINUTES=$(or $(MINUTES),10) STORM_SECONDS=$(STORM_SECONDS) SEED=$(or $(SEED),1) cargo test --locked --workspace --features campaigns,faults --test storm

sim: ## the simulation: 20 000 seeds and all mutants; or make sim SEEDS=n, SEED=n, FROM=n, MUTANT=name
	cargo test --locked --no-default-features --features faults --test sim -- \
	  $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FROM),--from $(FROM)) $(if $(MUTANT),--mutant $(MUTANT))

mutants: ## which deliberate mistakes the simulation finds; writes docs/internals/mutants.md
	cargo test --locked --no-default-features --features faults --test sim -- --mutants --write

unit: ## tests that need neither a broker nor the C++ libraries
	cargo test --locked --workspace --exclude processor --exclude processor-log-kafka $(ARGS)

lint: libraries ## formatting, clippy, scripts and, if typos is installed, spelling
	cargo fmt --check
	cargo clippy --locked --workspace -- -D warnings
	cargo clippy --locked --workspace --all-targets --features campaigns,faults -- -D warnings
	@for script in .ci/run scripts/*; do bash -n $$script || exit 1; done
	@export PATH=$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/processor/tools/bin:$$PATH; \
	if command -v typos >/dev/null; then typos; else \
	  echo "spelling is not checked: typos is missing; install it with: cargo install --locked typos-cli --version 1.52.0" >&2; fi

.PHONY: audit-deps
audit-deps: ## licences, unused dependencies, spelling; builds its tools once, which takes minutes
	@scripts/audit-deps

fmt: ## format the code
	cargo fmt

check: libraries ## the quick gate before a commit: formatting, clippy, unit tests of what changed
	@scripts/check

bench: install-tools libraries ## benchmarks; make bench ARGS="--bench engine"
	cargo bench --locked $(ARGS)

kafka: install-tools ## a one-node Kafka on localhost:9092; scripts/kafka.sh stop ends it
	@scripts/kafka.sh start

install-tools: ## Debian packages for building and for the tests' broker, only those that are missing
	@scripts/install-tools

clean: ## remove build output and local state (the demo's log too)
	cargo clean
	rm -rf processor state/*
