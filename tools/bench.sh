#!/bin/bash
# Bench: the figures of docs/performance.md: micro benchmarks, then whole boots and guest programs next to QEMU's TCG, and disk
# images next to qemu-img, in the same run.
#
# Usage: tools/bench.sh [micro|boot|guest|disk]… (default: all). RUNS sets the rounds of boots, of guest programs and of disk rows (5). Results also go to build-bench/results/.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=("$@")
[ ${#rounds[@]} -gt 0 ] || rounds=(micro boot guest disk)
out=build-bench/results
mkdir -p "$out"

micro() {
    local program
    cmake --preset release -B build-bench -DSTRATA_BENCH=ON -DSTRATA_TESTS=OFF >/dev/null
    cmake --build build-bench -j"$(nproc)" >/dev/null
    for program in build-bench/bench/*_bench; do
        [ -x "$program" ] || continue
        echo "== $(basename "$program")"
        "$program" --benchmark_out="$out/$(basename "$program").json" --benchmark_out_format=json
    done
}

boot() {
    build/bin/strata image path tiny >/dev/null 2>&1 || build/bin/strata image build tiny
    echo "== boot, memory, idle: Strata's soft engine next to qemu-system-x86_64 -accel tcg"
    python3 bench/system/boot_bench.py "$(build/bin/strata image path tiny)/vmlinuz" --runs "${RUNS:-5}" --sleep 10 |
        tee "$out/boot.txt"
}

guest() {
    echo "== guest programs: the host, Strata's soft engine and qemu-system-x86_64 -accel tcg in turn"
    python3 bench/system/guest_bench.py --runs "${RUNS:-5}" --json "$out/guest.json" | tee "$out/guest.txt"
}

disk() {
    echo "== disk images: Strata and Debian's qemu-img in turn"
    python3 bench/block/disk_bench.py --runs "${RUNS:-5}" --json "$out/disk.json" | tee "$out/disk.txt"
}

for round in "${rounds[@]}"; do
    case $round in
        micro | boot | guest | disk) "$round" ;;
        *)
            echo "bench: no round '$round': use micro, boot, guest, disk" >&2
            exit 2
            ;;
    esac
done
