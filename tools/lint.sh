#!/bin/bash
# Lint: everything that reads the sources: layers, heads, docs, clang-format, the clang build with its warnings, clang-tidy.
#
# Usage: tools/lint.sh [FILE…] (default: every source file that differs from the main branch, or all with LINT_ALL=1).
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
python3 tools/check_layers.py
python3 tools/check_heads.py
python3 tools/check_docs.py
git ls-files '*.cc' '*.h' | xargs -P"$jobs" -n40 clang-format-14 --dry-run --Werror
cmake --preset clang >/dev/null
cmake --build build-clang -j"$jobs"
if [ $# -gt 0 ]; then
    files=("$@")
elif [ "${LINT_ALL:-0}" = 1 ]; then
    mapfile -t files < <(git ls-files 'src/*.cc')
else
    base=$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)
    mapfile -t files < <(git diff --name-only --diff-filter=d "$base" -- 'src/*.cc')
fi
[ ${#files[@]} -eq 0 ] || printf '%s\n' "${files[@]}" | xargs -P"$jobs" -n1 clang-tidy-14 -p build-clang --quiet
echo "lint: passed"
