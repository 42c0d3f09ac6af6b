#!/bin/bash
# Tests: runs the suites of `make test` on an existing build, with fixed budgets.
#
# Usage: tools/run_tests.sh [BUILD_FOLDER [LABEL_REGEX]]. Each test has its own time limit in CTest. What needs KVM or a network
# skips itself with a reason. Order: style and unit first (seconds), then guests and whole boots.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
labels=${2:-style|unit|guest|conformance|crash|functional}
jobs=${JOBS:-$(nproc)}
mkdir -p "$build/logs"
ctest --test-dir "$build" -L "$labels" -j"$jobs" --output-on-failure --no-tests=error \
    --output-junit "$PWD/$build/logs/tests.xml"
