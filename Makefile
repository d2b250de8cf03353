# What one does with a checkout. Each target first sees to its prerequisites, which is quick when nothing is missing.
.PHONY: run test bench soak lint help

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

# The dev profile builds in a fraction of the release profile's time, and its dependencies are optimised already.
run: ## serve conf/tollgate.yaml and catalog.yaml on 127.0.0.1:4444
	@scripts/prerequisites build
	PATH="$(CURDIR)/target/debug:$$PATH" cargo run --quiet -- run -c conf/tollgate.yaml --catalog catalog.yaml $(ARGS)

test: ## run every test, those with the official clients, servers and conformance suite included
	@scripts/prerequisites test
	cargo test $(ARGS)

bench: ## compare with a direct call, nginx and a bare Pingora proxy
	@scripts/prerequisites bench
	scripts/bench $(ARGS)

soak: ## put loads on the gateway that it has to stand for minutes
	@scripts/prerequisites test
	scripts/soak $(ARGS)

lint: ## formatting, clippy, documentation, licences and bans of dependencies
	@scripts/prerequisites build
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
	@if command -v cargo-deny >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; \
	else echo "lint: cargo-deny is not installed; tests/dependencies.rs checks bans and licences from deny.toml"; fi
