# Everything starts here. Each target needs nothing before it: what is missing is installed when
# that is allowed, or named exactly when it is not.

CARGO ?= cargo
# For `make demo`: ARGS="--port 9000".
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check setup-build setup-test

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup-build ## Serve on 127.0.0.1:8080 with recorded calls replayed live
	$(CARGO) run --release --locked -- demo $(ARGS)

test: setup-test ## Run all tests
	$(CARGO) test --locked

check: setup-build ## Check format, lints and documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps

setup-build: ## Install or name what building needs
	@scripts/setup.sh build

setup-test: ## Install or name what the tests need
	@scripts/setup.sh build test
