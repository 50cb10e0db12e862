# The front door. `make help` lists what there is.

IMG        ?= gatewatch
PUSH       ?= false
VERSION    ?= $(shell sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
COMMIT_SHA ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
NAMESPACE  ?= skuber-system
DRY_RUN    ?= false
export IMG VERSION COMMIT_SHA PUSH_FLAGS NAMESPACE DRY_RUN

CARGO        ?= cargo
CLANG_FORMAT ?= clang-format-16
ARCH         := $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)
RELEASE      := $(or $(CARGO_TARGET_DIR),target)/release/gatewatch

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build image buildx push deploy undeploy demo envtest test lint bench fuzz compat clean

help: ## Show this
	@echo "gatewatch: shows, from the kernel, what a gateway really does. Linux only."
	@echo
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo
	@echo "  IMG=$(IMG) VERSION=$(VERSION) COMMIT_SHA=$(COMMIT_SHA) PUSH=$(PUSH) NAMESPACE=$(NAMESPACE)"

setup: ## Install what build, demo and tests need (Debian; root)
	@scripts/setup

build: ## Build the release binary; with PUSH=true also an image of this architecture, and push it
	$(CARGO) build --release --locked --bin gatewatch
	@echo "built: $(RELEASE)"
	@if [ "$(PUSH)" = true ]; then $(MAKE) --no-print-directory image push; fi

image: ## Build an image for this architecture (buildah or podman)
	@scripts/setup image
	@scripts/static $(ARCH)
	@scripts/image build $(ARCH)

buildx: ## Build an image for amd64 and arm64; push it with PUSH=true
	@scripts/setup image
	@scripts/static amd64 arm64
	@scripts/image build amd64 arm64
	@if [ "$(PUSH)" = true ]; then scripts/image push; fi

push: ## Push the image IMG:VERSION that image or buildx has made
	@scripts/image push

deploy: ## Put node agent and scaler of IMG:VERSION into NAMESPACE of kubectl's cluster; DRY_RUN=true prints the manifests
	@scripts/deploy apply

undeploy: ## Take them away again; the namespace stays
	@scripts/deploy delete

demo: setup build ## Watch a real gateway under load for DEMO_SECONDS (30), and check the counts (root)
	@GATEWATCH="$(RELEASE)" demo/run

envtest: ## Build the tests' Kubernetes (etcd, kube-apiserver, kube-controller-manager) and KEDA, once, into a cache
	@tools/envtest/build

test: setup lint ## Everything that is checked: lint, all tests, kernel ones included, nginx layouts, deploy/ (root)
	@scripts/setup tests
	@CARGO="$(CARGO)" scripts/test

lint: ## Formatting of Rust and C, and clippy
	$(CARGO) fmt --all --check
	$(CLANG_FORMAT) --dry-run -Werror crates/capture/bpf/*.c crates/capture/bpf/*.h
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

bench: ## Measure what gatewatch costs a gateway (root)
	@scripts/setup bench
	@if [ -x bench/run ]; then bench/run; else echo "there is no bench/run yet" >&2; exit 1; fi

fuzz: ## Fuzz the parsers of untrusted bytes, FUZZ_SECONDS (20) each
	@scripts/setup fuzz
	@fuzz/run

compat: ## Try gatewatch in other kernels, emulated: KERNELS="5.10 6.12" or a choice; an hour, and no part of test
	@scripts/setup image compat
	@scripts/static amd64 arm64
	@compat/run $(KERNELS)

clean: ## Remove what was built
	$(CARGO) clean
