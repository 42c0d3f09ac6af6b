#!/bin/bash
# Demo: boots the demo guest to its shell; with no terminal on standard input, runs its self-check instead and shows the transcript.
#
# Usage: tools/demo.sh [OPTION for strata run…]. Needs a build; makes the image if it is not there. Exit status 0: the guest powered off
# (and, without a terminal, its self-check passed).
set -euo pipefail
cd "$(dirname "$0")/.."
strata=build/bin/strata
"$strata" image path tiny >/dev/null 2>&1 || "$strata" image build tiny

if [ -t 0 ] && [ -t 1 ]; then
    exec "$strata" run tiny "$@"
fi

transcript=$(mktemp)
trap 'rm -f "$transcript"' EXIT
"$strata" run tiny --name demo --cpus 2 --memory 512M --timeout 600 --append "quiet strata.selfcheck" "$@" </dev/null | tee "$transcript"
grep -q '^self-check: passed' "$transcript" || {
    echo "demo: the guest's self-check did not pass" >&2
    exit 1
}
echo "demo: passed"
