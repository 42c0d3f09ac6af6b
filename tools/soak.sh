#!/bin/bash
# Soak: long rounds that `make test` has no time for: boots of every shape, a small Linux on both engines, fuzz targets, the differential
# run, processors against each other, programs that check themselves, disk images under work that is killed and without power, a guest
# on a chain of them.
#
# Usage: BUDGET=seconds tools/soak.sh [boots|small|fuzz|differential|processors|programs|disks|jobs|crash|chain]… (default: all). Results go to OUT (build/soak); a summary line per
# round is printed, to be recorded in docs/soaks.md. Each fuzz target, the differential run and the disk rounds get BUDGET seconds; boots are BOOTS (10) of each
# shape whatever it takes, by the programs in BIN (build/bin), which may be a copy. SHAPES ("1:256M 4:8G") names other shapes than all nine.
set -euo pipefail
cd "$(dirname "$0")/.."
budget=${BUDGET:-3600}
out=${OUT:-build/soak}
strata=${BIN:-build/bin}/strata
boots=${BOOTS:-10}
shapes=${SHAPES:-1:256M 1:1G 1:8G 2:256M 2:1G 2:8G 4:256M 4:1G 4:8G}
# What a healthy kernel never says. One line is no complaint: on a processor of AMD's without invariant TSC (which is shown on request only), Linux
# calls the TSCs of several processors unsynchronized without looking at them, and uses kvm-clock, as it does anyway.
complaints='WARNING:|BUG:|Oops|Call Trace|soft lockup|hard LOCKUP|stall|hung_task|blocked for more than|unable to handle|Marking TSC unstable|Marking clocksource|nobody cared|timed out|Watchdog detected|took too long|RT throttling|spurious|general protection|segfault|Kernel panic'
harmless='Marking TSC unstable due to TSCs unsynchronized|init\[[0-9]+\]: segfault at 10 '  # the latter: the small Linux's own check
failures=0
mkdir -p "$out"
rounds=("$@")
[ ${#rounds[@]} -gt 0 ] || rounds=(boots small fuzz differential processors programs disks jobs crash chain)

fail() {
    echo "soak: FAILED: $*"
    failures=$((failures + 1))
}

found_in() { grep -avE "$harmless" "$1" | grep -aE "$complaints" | head -n 3 | tr -d '\r' | tr '\n' ';'; }

# One boot with a log: it must end by poweroff with WORD in its log, and without a complaint in it. Arguments: LOG WORD, then strata's.
boot() {
    local log=$1 word=$2 status=0
    shift 2
    timeout 1000 "$strata" run "$@" </dev/null >"$log" 2>&1 || status=$?
    if [ $status -ne 0 ] || ! grep -aq "$word" "$log" || ! grep -aq 'reboot: Power down' "$log" || [ -n "$(found_in "$log" || true)" ]; then
        fail "boot: status $status, see $log: $(found_in "$log" || true)"
    fi
}

# Debian's stock kernel with its self-check, in every shape.
boots() {
    local shape turn
    "$strata" image path tiny >/dev/null 2>&1 || "$strata" image build tiny
    for shape in $shapes; do
        for turn in $(seq "$boots"); do
            boot "$out/boot-${shape/:/-}-$turn.log" '^self-check: passed' tiny --engine "${ENGINE:-soft}" --cpus "${shape%:*}" --memory "${shape#*:}" \
                --timeout 900 --append strata.selfcheck
        done
        echo "soak: boots: $boots with ${shape%:*} vCPUs and ${shape#*:} done"
    done
}

# A kernel of a few hundred thousand instructions, made here: boots even where KVM emulates every one of them. Plain memory functions, because such
# a KVM takes REP string instructions element by element.
small() {
    JOBS=$(nproc) tools/tiny_linux/build.sh "$out/tiny-linux" >"$out/tiny-linux.log" 2>&1 || {
        fail "small: the kernel was not built, see $out/tiny-linux.log"
        return
    }
    local -a machine=(--kernel "$out/tiny-linux/vmlinux" --initrd "$out/tiny-linux/initrd.cpio" --memory 64M --cpu "host,-erms,-fsrm" --net none
        --no-reboot --timeout 900 --append "console=ttyS0 panic=-1")
    boot "$out/small-soft.log" '^tiny: passed' --engine soft "${machine[@]}"
    echo "soak: small: soft engine done"
    if ! { [ -r /dev/kvm ] && [ -w /dev/kvm ]; }; then
        echo "soak: small: no /dev/kvm here"
    else
        boot "$out/small-kvm.log" '^tiny: passed' --engine kvm "${machine[@]}"
        echo "soak: small: kvm engine done"
    fi
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

# Work on images that is killed, judged by Debian's qemu-img.
disks() {
    python3 tools/soak/disks.py --strata "${BIN:-build/bin}/qemu-img" --seconds "$budget" --out "$out/disks" >"$out/disks.log" 2>&1 || fail "disks: see $out/disks.log"
    tail -n 1 "$out/disks.log"
}

# Long pieces of work on images: killed, and run again.
jobs() {
    python3 tools/soak/jobs.py --strata "${BIN:-build/bin}/strata" --seconds "$budget" --out "$out/jobs" >"$out/jobs.log" 2>&1 || fail "jobs: see $out/jobs.log"
    tail -n 1 "$out/jobs.log"
}

# Images as a loss of power leaves them, with other seeds than the tests'.
crash() {
    local end=$((SECONDS + budget)) seed=$((RANDOM * 1000)) count=0
    while [ "$SECONDS" -lt "$end" ]; do
        if ! STRATA_CRASH_SEED=$seed STRATA_CRASH_ROUNDS=2 build/tests/crash_test >"$out/crash.log" 2>&1; then
            cp "$out/crash.log" "$out/crash-$seed.log"
            fail "crash: STRATA_CRASH_SEED=$seed, see $out/crash-$seed.log"
        fi
        seed=$((seed + 1)) count=$((count + 1))
    done
    echo "soak: crash: $count runs of all formats, seeds up to $seed"
}

# A Debian guest at work on the top of three qcow2 layers, once.
chain() {
    "$strata" image path debian:12 >/dev/null 2>&1 || "$strata" image build debian:12
    python3 tools/soak/chain.py --strata "$strata" --engine "${ENGINE:-soft}" --out "$out/chain" >"$out/chain.log" 2>&1 || fail "chain: see $out/chain.log"
    tail -n 1 "$out/chain.log"
}

for round in "${rounds[@]}"; do
    case $round in
        boots | small | fuzz | differential | processors | programs | disks | jobs | crash | chain) "$round" ;;
        *)
            echo "soak: no round '$round': use boots, small, fuzz, differential, processors, programs, disks, jobs, crash, chain" >&2
            exit 2
            ;;
    esac
done
echo "soak: $failures failure(s)"
[ "$failures" -eq 0 ]
