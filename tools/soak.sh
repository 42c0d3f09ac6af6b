#!/bin/bash
# Soak: long rounds that `make test` has no time for: boots of every shape, fuzz targets, the differential run, programs that check themselves.
#
# Usage: BUDGET=seconds tools/soak.sh [boots|fuzz|differential|processors|programs]… (default: all). Results go to build/soak/; a summary line per round is printed, to be
# recorded in docs/. Each fuzz target and the differential run get BUDGET seconds; boots are ten of each shape whatever it takes.
set -euo pipefail
cd "$(dirname "$0")/.."
budget=${BUDGET:-3600}
out=build/soak
strata=build/bin/strata
failures=0
mkdir -p "$out"
rounds=("$@")
[ ${#rounds[@]} -gt 0 ] || rounds=(boots fuzz differential processors programs)

fail() {
    echo "soak: FAILED: $*"
    failures=$((failures + 1))
}

# Ten boots each with 1, 2, 4 vCPUs and 256 MiB, 1 GiB, 8 GiB: the guest's own self-check looks for warnings, stalls and lockups.
boots() {
    local cpus memory turn log status
    "$strata" image path tiny >/dev/null 2>&1 || "$strata" image build tiny
    for cpus in 1 2 4; do
        for memory in 256M 1G 8G; do
            for turn in $(seq 10); do
                log=$out/boot-$cpus-$memory-$turn.log
                status=0
                "$strata" run tiny --engine "${ENGINE:-soft}" --cpus $cpus --memory $memory --timeout 900 \
                    --append strata.selfcheck </dev/null >"$log" 2>&1 || status=$?
                if [ $status -ne 0 ] || ! grep -q '^self-check: passed' "$log"; then
                    fail "boot with $cpus vCPUs and $memory, turn $turn: status $status, see $log"
                fi
            done
            echo "soak: 10 boots with $cpus vCPUs and $memory done"
        done
    done
}

fuzz() {
    local target name
    local -a corpora
    cmake --preset fuzz >/dev/null
    cmake --build build-fuzz -j"$(nproc)" >/dev/null
    for target in build-fuzz/fuzz/fuzz_*; do
        [ -x "$target" ] || continue
        name=$(basename "$target")
        mkdir -p "$out/$name"
        corpora=("$out/$name")
        [ ! -d "fuzz/corpus/${name#fuzz_}" ] || corpora+=("fuzz/corpus/${name#fuzz_}")
        if "$target" -max_total_time="$budget" -timeout=20 -rss_limit_mb=4096 -artifact_prefix="$out/$name-" \
            "${corpora[@]}" >"$out/$name.log" 2>&1; then
            echo "soak: $name: $(grep -c . "$out/$name.log") lines of log, no finding in $budget s"
        else
            fail "$name: see $out/$name.log"
        fi
    done
}

differential() {
    build/tests/strata-differential --cases 1000000000 --seconds "$budget" >"$out/differential.log" 2>&1 || fail "differential run: see $out/differential.log"
    tail -n 1 "$out/differential.log"
}

# Memory order, shootdowns, code patching and address spaces of four processors, many times as long as in the tests.
processors() {
    if STRATA_GUEST_ROUNDS=500 ctest --test-dir build -R 'MachineGuests.*(MemoryOrder|ShotDown|UnderOthers|SpacesSwitched)' --timeout 700 \
        --output-on-failure >"$out/processors.log" 2>&1; then
        echo "soak: processors: no finding"
    else
        fail "processors: see $out/processors.log"
    fi
}

# Programs in a Debian guest that check their own results.
programs() {
    python3 tools/soak/programs.py --engine "${ENGINE:-soft}" --budget "$budget" --out "$out" >/dev/null || fail "programs: see $out/programs.log"
    tail -n 1 "$out/programs.log"
}

for round in "${rounds[@]}"; do
    case $round in
        boots | fuzz | differential | processors | programs) "$round" ;;
        *)
            echo "soak: no round '$round': use boots, fuzz, differential, processors, programs" >&2
            exit 2
            ;;
    esac
done
echo "soak: $failures failure(s)"
[ "$failures" -eq 0 ]
