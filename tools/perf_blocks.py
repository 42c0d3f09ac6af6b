#!/usr/bin/env python3
# perf_blocks: samples of perf in translated code, by guest address.
#
# Usage: strata run --profile FILE ... beside `perf record -p PID-of-strata-vmm`, then perf_blocks.py FILE [perf.data].
# perf names a sample in the code memory (memfd:strata-code) by its offset there; the profile says which block stands at each offset. A block's cold
# code (slow paths) and code that was evicted before the end are not known: their samples are shown as one line.
import bisect
import re
import subprocess
import sys

SAMPLE = re.compile(r"^\s*([0-9.]+)%.*\s(0x[0-9a-f]+)\s*$")


def blocks_of(path):
    """[(offset, size, rip)] by offset."""
    found = []
    with open(path, encoding="ascii") as lines:
        for line in lines:
            if not line.startswith("#"):
                fields = line.split()
                found.append((int(fields[9], 16), int(fields[6]), fields[1]))
    return sorted(found)


def main():
    """Prints share and guest address, most first."""
    blocks = blocks_of(sys.argv[1])
    starts = [start for start, _, _ in blocks]
    data = sys.argv[2] if len(sys.argv) > 2 else "perf.data"
    command = ["perf", "report", "-i", data, "--stdio", "-g", "none", "--sort", "sym", "--dsos", "memfd:strata-code (deleted)"]
    shares = {}
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        sample = SAMPLE.match(line)
        if sample:
            at = int(sample[2], 16)
            place = bisect.bisect_right(starts, at) - 1
            known = place >= 0 and at < starts[place] + blocks[place][1]
            rip = blocks[place][2] if known else "elsewhere"
            shares[rip] = shares.get(rip, 0.0) + float(sample[1])
    for rip, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{share:6.2f}% {rip}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
