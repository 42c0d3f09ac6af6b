#!/usr/bin/env python3
# guest_bench: runs the workloads of guestbench natively, under Strata and under QEMU's TCG, and compares medians.
#
# One guest of each kind boots the same kernel and the same initramfs (busybox, guestbench) and runs every workload RUNS times; native runs
# happen in the same call. Printed: seconds, slowdown against native for both, how many times faster Strata is, and the geometric mean of that.
import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
echo USERSPACE
for round in $(/bin/busybox seq RUNS); do
  for name in NAMES; do /bin/guestbench $name; done
done
/bin/busybox poweroff -f
"""


def make_initramfs(folder, options, names):
    """An initramfs that runs the workloads and powers off; its path."""
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "bin"))
    shutil.copy(options.busybox, os.path.join(root, "bin/busybox"))
    shutil.copy(options.guestbench, os.path.join(root, "bin/guestbench"))
    with open(os.path.join(root, "init"), "w", encoding="ascii") as init:
        init.write(INIT.replace("RUNS", str(options.runs)).replace("NAMES", " ".join(names)))
    os.chmod(os.path.join(root, "init"), 0o755)
    path = os.path.join(folder, "initramfs.cpio")
    subprocess.run(f"cd {root} && find . | cpio -o -H newc --quiet > {path}", shell=True, check=True)
    return path


def parse(text):
    """{workload: ([seconds], {check values})} of guestbench's lines."""
    found = {}
    for name, seconds, check in re.findall(r"BENCH (\w+) ([0-9.]+) ([0-9a-f]{16})", text):
        entry = found.setdefault(name, ([], set()))
        entry[0].append(float(seconds))
        entry[1].add(check)
    return found


def run(command, limit):
    """The output of a guest; what it printed so far if it took longer than `limit`."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False)
        return done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as late:
        print(f"stopped after {limit} s: {command[0]}", file=sys.stderr)
        return (late.stdout or b"").decode("utf-8", "replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel")
    parser.add_argument("--guestbench", default="build/bench/guestbench")
    parser.add_argument("--strata", default="build/bin/strata")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--peer", default="qemu-system-x86_64", help="'' leaves the peer out")
    parser.add_argument("--busybox", default="/bin/busybox")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    parser.add_argument("--only", default=".", help="workloads that match this expression")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one guest")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    listed = subprocess.run([options.guestbench], capture_output=True, text=True, check=True).stdout.split()
    names = [name for name in listed if re.search(options.only, name)]
    append = "console=ttyS0 quiet"
    with tempfile.TemporaryDirectory() as folder:
        initramfs = make_initramfs(folder, options, names)
        outputs = {"native": "".join(run([options.guestbench, name], 300) for _ in range(options.runs) for name in names)}
        outputs["strata"] = run([options.strata, "run", "--engine", options.engine, "--kernel", options.kernel, "--initrd", initramfs, "--append", append,
                                 "--memory", f"{options.memory}M", "--cpus", str(options.cpus), "--net", "none", "--quiet"], options.limit)
        if options.peer:
            outputs["peer"] = run([options.peer, "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel",
                                   options.kernel, "-initrd", initramfs, "-append", append, "-m", f"{options.memory}M", "-smp", str(options.cpus)], options.limit)
    results = {who: parse(text) for who, text in outputs.items()}
    print("| workload | native s | Strata s | Strata/native | TCG s | TCG/native | TCG/Strata |\n| --- | --- | --- | --- | --- | --- | --- |")
    gains = []
    for name in names:
        median = {who: statistics.median(found[name][0]) if name in found else math.nan for who, found in results.items()}
        peer = median.get("peer", math.nan)
        gain = peer / median["strata"]
        if not math.isnan(gain):
            gains.append(gain)
        wrong = "" if name not in results["strata"] or results["strata"][name][1] == results["native"][name][1] else " (WRONG RESULT)"
        print(f"| {name}{wrong} | {median['native']:.3f} | {median['strata']:.3f} | {median['strata'] / median['native']:.2f} | {peer:.3f} | {peer / median['native']:.1f} | {gain:.1f} |")
    if gains:
        print(f"\ngeometric mean, TCG/Strata: {math.exp(sum(map(math.log, gains)) / len(gains)):.2f} over {len(gains)} workloads")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({who: {name: values[0] for name, values in found.items()} for who, found in results.items()}, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
