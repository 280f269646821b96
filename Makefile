# The menu: `make` lists it.

.DEFAULT_GOAL := help
TOOLS := $(or $(CARGO_TARGET_DIR),target)/tools
DENY := $(TOOLS)/bin/cargo-deny --locked --exclude demo --exclude generate

# Debian keeps daemons such as mosquitto where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## see the whole job: a push restarts an app with its new version; nothing to install
	cargo run --locked -p demo

# These boot a container, change the user or mount a disk: only they are run with sudo for an ordinary user.
# cargo gives the script a test's program as $0 and its arguments.
RUN := case $$0 in */deps/systemd-*|*/deps/command-*|*/deps/journal-*|*/deps/chaos-*|*/deps/cost-*) exec sudo -- "$$0" "$$@" ;; esac; exec "$$0" "$$@"

.PHONY: test
test bench: export RUNNER = target."cfg(unix)".runner = ["sh", "-c", '$(RUN)']
test: check-root ## run all tests, some with sudo; installs what they need (mosquitto, …) from the distribution when missing
	scripts/install-bench-tools $(TOOLS)
	if [ "$$(id -u)" -eq 0 ]; then cargo test --locked --workspace; else cargo --config "$$RUNNER" test --locked --workspace; fi

# sudo hands no environment on.
RUN_PACKAGE := exec sudo -- env INSTANCE_AGENT_DEB="$$INSTANCE_AGENT_DEB" INSTANCE_AGENT_TARBALL="$$INSTANCE_AGENT_TARBALL" "$$0" "$$@"
BUILT := $(or $(CARGO_TARGET_DIR),target)/debian

# Containers wait for most of their time: more of them at once than there are processors.
.PHONY: test-systemd
test-systemd: export RUNNER = target."cfg(unix)".runner = ["sh", "-c", '$(RUN_PACKAGE)']
test-systemd: check-root tarball ## test the packages on a real systemd, in containers, with sudo; builds them first
	scripts/install-test-tools
	export INSTANCE_AGENT_DEB="$$(realpath $(BUILT)/*.deb)" INSTANCE_AGENT_TARBALL="$$(realpath $(BUILT)/*.tar.gz)"; \
	run="test --locked --test package -- --ignored --test-threads=4"; \
	if [ "$$(id -u)" -eq 0 ]; then cargo $$run; else cargo --config "$$RUNNER" $$run; fi

# Of the very binary that is shipped: what cargo builds for a benchmark has the features that tests ask of dependencies.
BENCH ?=
.PHONY: bench
bench: check-root ## what listening costs and how fast a push acts, beside its peers (15 minutes); BENCH='--json', BENCH='idle acting'
	scripts/install-bench-tools $(TOOLS)
	cargo bench --locked --bench cost --no-run
	cargo build --locked --release
	mkdir -p $(TOOLS)/bench && cp $(or $(CARGO_TARGET_DIR),target)/release/instance-agent $(TOOLS)/bench/instance-agent
	set -- --locked --bench cost -- --agent $(abspath $(TOOLS))/bench/instance-agent $(BENCH); \
	if [ "$$(id -u)" -eq 0 ]; then cargo bench "$$@"; else cargo --config "$$RUNNER" bench "$$@"; fi

.PHONY: check
check: check-tools check-lock check-format check-scripts check-lints check-docs check-deps ## formatting, lints, docs, scripts, dependencies; no test is run

.PHONY: check-root
check-root: # fails at once rather than after the tests that need no root
	@[ "$$(id -u)" -eq 0 ] || sudo -- true || { \
		echo 'error: some tests need root (a systemd container, commands as other users): be root, or a user who may sudo' >&2; \
		exit 1; \
	}

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

.PHONY: build
build: ## build the release binary, target/release/instance-agent
	cargo build --locked --release

.PHONY: deb
deb: ## build the Debian package, target/debian/*.deb, for glibc 2.17 and newer; installs zig, cargo-deb and cargo-about
	scripts/install-deb-tools $(TOOLS)
	scripts/build-deb $(TOOLS)

.PHONY: tarball
tarball: deb ## build the tarball for distributions without dpkg, target/debian/*.tar.gz, with an install.sh
	scripts/build-tarball

.PHONY: generated
generated: ## write manual pages and completions anew, from the code and docs/configuration.md
	cargo run --locked --quiet -p generate

.PHONY: advisories
advisories: check-tools ## look the dependencies up in the RustSec database (needs the internet)
	$(DENY) check advisories

# Without a sanitizer the stable toolchain will do, and there is no unsafe code here for one to find fault with.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := headers envelope form payload user-data
.PHONY: fuzz
fuzz: ## fuzz what decodes messages and user-data, FUZZ_SECONDS=60 for each target; a crash is kept in fuzz/artifacts
	scripts/install-fuzz-tools $(TOOLS)
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/found/$$target && \
		PATH="$(abspath $(TOOLS))/bin:$$PATH" cargo fuzz run --sanitizer none $$target \
			fuzz/found/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 || exit 1; \
	done

.PHONY: clean
clean: ## remove everything that was built, the check tools too
	cargo clean

# The parts of `make check`. They are not in the menu, but each can be run alone.

.PHONY: check-tools
check-tools:
	scripts/install-check-tools $(TOOLS)

.PHONY: check-lock
check-lock: # Cargo.lock says what Cargo.toml asks for
	cargo metadata --locked --format-version 1 >/dev/null

.PHONY: check-format
check-format:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

.PHONY: check-scripts
check-scripts:
	shellcheck --external-sources $$(scripts/list-shell-scripts)

.PHONY: check-lints
check-lints:
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: check-docs
check-docs:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

.PHONY: check-deps
check-deps: # licences, sources and duplicates of the agent's own tree, the demo's left out; no exception that is not needed
	$(DENY) check -D unmatched-skip licenses sources bans
