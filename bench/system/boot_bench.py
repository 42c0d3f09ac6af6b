#!/usr/bin/env python3
# boot_bench: boots the same kernel and initramfs under Strata and under QEMU's TCG, in turn, and compares.
#
# Measured for each run, from outside: wall time from start to the first line that the guest's init prints, memory beyond
# guest RAM at that moment (the sum of the process tree's PSS, less its mapping of guest memory), CPU use of the idle guest over a few seconds after
# it, and the wall time that `sleep 10` takes in the guest (on request). Pairs alternate, so drift of the machine hits both. Medians and ratios are printed as a table.
import argparse
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
echo USERSPACE-REACHED
for word in $(/bin/busybox cat /proc/cmdline); do
  case $word in
    sleep=*) echo SLEEP-BEGIN; /bin/busybox sleep ${word#sleep=}; echo SLEEP-END;;
  esac
done
/bin/busybox sleep 1000000
"""


def make_initramfs(folder, busybox):
    """An initramfs with busybox and INIT; its path."""
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "bin"))
    subprocess.run(["cp", busybox, os.path.join(root, "bin/busybox")], check=True)
    with open(os.path.join(root, "init"), "w", encoding="ascii") as init:
        init.write(INIT)
    os.chmod(os.path.join(root, "init"), 0o755)
    path = os.path.join(folder, "initramfs.cpio")
    subprocess.run(f"cd {root} && find . | cpio -o -H newc --quiet > {path}", shell=True, check=True)
    return path


def tree(pid):
    """The process and its descendants."""
    pids = [pid]
    for parent in pids:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as children:
                    pids += [int(child) for child in children.read().split()]
        except OSError:
            continue
    return pids


def memory_beyond_ram(pid, ram):
    """MiB of proportional set size outside mappings as large as guest RAM."""
    total = 0
    for process in tree(pid):
        try:
            with open(f"/proc/{process}/smaps", encoding="utf-8") as smaps:
                in_ram = False
                for line in smaps:
                    first = line.split(None, 1)[0]
                    if "-" in first and not first.endswith(":"):
                        start, end = (int(part, 16) for part in first.split("-"))
                        in_ram = end - start >= ram or "guest-ram" in line
                    elif first == "Pss:" and not in_ram:
                        total += int(line.split()[1])
        except OSError:
            continue
    return total / 1024


def cpu_seconds(pid):
    """User and system time of the tree so far."""
    ticks = 0
    for process in tree(pid):
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_for(process, marker, limit, seen):
    """Reads output until `marker`; the moment it came, or None."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if select.select([process.stdout], [], [], 0.2)[0]:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return None
            seen.append(chunk)
            if marker in b"".join(seen):
                return time.monotonic()
    return None


def measure(command, options):
    """One boot; a dict of figures, or None if userspace was not reached."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    seen, figures = [], None
    try:
        reached = wait_for(process, b"USERSPACE-REACHED", options.limit, seen)
        if reached is not None:
            figures = {"boot_s": reached - started}
            if options.sleep:
                begin = wait_for(process, b"SLEEP-BEGIN", 5, seen)
                end = wait_for(process, b"SLEEP-END", options.sleep + 30, seen)
                figures["sleep_s"] = end - begin if begin and end else float("nan")
            figures["beyond_ram_mib"] = memory_beyond_ram(process.pid, options.memory << 20)
            time.sleep(options.settle)
            before = cpu_seconds(process.pid)
            time.sleep(options.idle)
            figures["idle_cpu_percent"] = (cpu_seconds(process.pid) - before) / options.idle * 100
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return figures


def commands(options, initramfs):
    """Both command lines."""
    append = "console=ttyS0" + (f" sleep={options.sleep}" if options.sleep else "")
    strata = [options.strata, "run", "--engine", options.engine, "--kernel", options.kernel, "--initrd", initramfs, "--append", append,
              "--memory", f"{options.memory}M", "--cpus", str(options.cpus), "--net", "none", "--quiet"]
    peer = [options.peer, "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", options.kernel,
            "-initrd", initramfs, "-append", append, "-m", f"{options.memory}M", "-smp", str(options.cpus)]
    return {"strata": strata, "peer": peer}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel", help="a bzImage, the same for both")
    parser.add_argument("--strata", default="build/bin/strata")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--peer", default="qemu-system-x86_64")
    parser.add_argument("--busybox", default="/bin/busybox")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    parser.add_argument("--sleep", type=int, default=0, help="also measure this many seconds of sleep in the guest")
    parser.add_argument("--settle", type=float, default=3, help="seconds between boot and the idle measurement")
    parser.add_argument("--idle", type=float, default=5, help="seconds of the idle measurement")
    parser.add_argument("--limit", type=float, default=180, help="seconds a boot may take")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = commands(options, make_initramfs(folder, options.busybox))
        results = {who: [] for who in lines}
        for _ in range(options.runs):
            for who, command in lines.items():
                figures = measure(command, options)
                if figures is None:
                    print(f"{who}: userspace was not reached within {options.limit} s: {' '.join(command)}", file=sys.stderr)
                    return 1
                results[who].append(figures)
    medians = {who: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for who, runs in results.items()}
    if options.json:
        print(json.dumps({"runs": results, "medians": medians}, indent=1))
        return 0
    print(f"| figure (median of {options.runs}, {options.cpus} vCPU, {options.memory} MiB) | Strata ({options.engine}) | QEMU TCG | ratio |\n| --- | --- | --- | --- |")
    for key, value in medians["strata"].items():
        other = medians["peer"][key]
        print(f"| {key} | {value:.2f} | {other:.2f} | {value / other if other else float('nan'):.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
