# Makefile: the front doors over CMake. `make help` lists them.
#
# Each target, alone, on a fresh Debian 12 machine with git and make, installs what it needs (tools/setup.sh), builds, and
# does its job. Variables: JOBS (parallel jobs), PREFIX and DESTDIR (install), BUDGET (seconds for each soak round).
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
BUDGET ?= 3600
STRATA := build/bin/strata
.DEFAULT_GOAL := build
.PHONY: help setup configure build demo test bench soak install clean lint format

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what building, testing and running need, from Debian's packages
	@tools/setup.sh

build/build.ninja: CMakePresets.json
	@tools/setup.sh build
	cmake --preset release

build: build/build.ninja ## build the programs into build/bin
	cmake --build build -j$(JOBS)

demo: ## build, make the demo guest and boot it to its shell (Ctrl-] leaves); no terminal: a self-check
	@tools/setup.sh build image
	@$(MAKE) --no-print-directory build
	@tools/demo.sh

test: ## build with gcc, then the unit, guest, functional and style tests
	@tools/setup.sh build image test
	@$(MAKE) --no-print-directory build
	@tools/run_tests.sh

bench: ## the figures of docs/performance.md, next to QEMU's in the same run
	@tools/setup.sh build image test bench
	@$(MAKE) --no-print-directory build
	@tools/bench.sh

soak: ## long rounds: repeated boots, fuzzing, differential runs, self-checking programs (BUDGET=seconds each)
	@tools/setup.sh all
	@$(MAKE) --no-print-directory build
	@BUDGET=$(BUDGET) tools/soak.sh

install: build ## install the programs under $(DESTDIR)$(PREFIX)
	DESTDIR=$(DESTDIR) cmake --install build --prefix $(PREFIX)

clean: ## remove every build folder
	rm -rf build build-*

lint: ## style checks, clang build with its warnings, clang-tidy
	@tools/setup.sh build test lint
	@tools/lint.sh

format: ## rewrite the sources with clang-format
	@tools/setup.sh lint
	git ls-files '*.cc' '*.h' | xargs clang-format-14 -i
