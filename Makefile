# The commands of this project; each installs what it needs first. README.md says what they are for.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: run test bench lint servers

# A gateway with real servers behind it, in the foreground, on polypool's own ports.
run: servers
	tests/drivers/run --prepare python
	cargo build --release
	export POLYPOOL_BIN=$${CARGO_TARGET_DIR:-target}/release/polypool
	export POLYPOOL_POSTGRES_LISTEN=$${POLYPOOL_POSTGRES_LISTEN:-127.0.0.1:6432}
	export POLYPOOL_REDIS_LISTEN=$${POLYPOOL_REDIS_LISTEN:-127.0.0.1:6380}
	export POLYPOOL_MONGODB_LISTEN=$${POLYPOOL_MONGODB_LISTEN:-127.0.0.1:27018}
	export POLYPOOL_ADMIN_LISTEN=$${POLYPOOL_ADMIN_LISTEN:-127.0.0.1:8432}
	exec tests/with servers gateway -- tests/welcome

# Everything: unit, property, corpus and end-to-end tests, then unchanged drivers through the gateway.
test: servers
	tests/drivers/run --prepare
	cargo build --all-targets
	export POLYPOOL_BIN=$${CARGO_TARGET_DIR:-target}/debug/polypool POLYPOOL_TEST_REQUIRED=1
	exec tests/with servers -- tests/all

bench:
	exec benches/compare/run

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

servers:
	tests/servers install
