# Tiphys: `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.cache/bin:$(HOME)/.cargo/bin:$(PATH)

# The cluster that `make up` starts.
NAME ?= tiphys
TIPHYS := target/release/tiphys

.PHONY: help
help: ## This list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

.PHONY: up
up: ## A cluster with a web application behind a Service; it stays up.
	scripts/setup
	cargo build --release --workspace --bins
	NAME=$(NAME) TIPHYS=$(TIPHYS) scripts/up

.PHONY: down
down: ## Takes the cluster away; PURGE=1 with its state.
	$(TIPHYS) down --name $(NAME) $(if $(PURGE),--purge)

.PHONY: build
build: ## The binary as it is shipped: target/release/tiphys.
	scripts/setup
	cargo build --release --workspace --bins

.PHONY: fmt
fmt: ## Formats the sources.
	cargo fmt --all

.PHONY: lint
lint: ## rustfmt and clippy, nothing forgiven.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# The checks run from the same build that the tests use.
.PHONY: check
check: ## Layers, kinds, sizes, licences.
	cargo build --workspace --bins --locked
	target/debug/xtask check

.PHONY: test
test: ## Everything CI runs.
	@echo '== what tests need'
	scripts/setup --test
	@echo '== the build'
	cargo build --workspace --bins --locked
	@echo '== checks of the sources'
	cargo fmt --all --check
	target/debug/xtask check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@echo '== tests'
	target/debug/xtask images
	cargo test --workspace --locked
	@echo '== recorded requests'
	target/debug/xtask replay

.PHONY: bench
bench: ## The table of budgets with measured figures.
	scripts/setup --test
	cargo build --release --workspace --bins
	target/release/xtask bench
