#!/usr/bin/env python3
# guest_bench: runs the same programs on the host, in a Strata guest and in a guest of QEMU's TCG, and compares medians.
#
# The programs (workloads.py) are guestbench's small loops and real programs of a Debian tree (bench_disk.py). All three systems run at the same time,
# idle but for the one that works: each round goes through the workloads, and for each through the systems, so that drift of the machine hits all
# three alike. The guests share kernel, initramfs and disk. First guests with one processor, then with two. Printed: seconds, slowdown against native,
# how many times faster Strata is, the limits and whether they are met, and the geometric mean. A result that differs from the host's is an error.
import argparse
import json
import math
import os
import re
import signal
import statistics
import sys
import tempfile

import bench_disk
import systems
import workloads

GUEST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest")


def measure(options, cpus, disk, folder):
    """{system: {workload: [Result or None]}} of all rounds with guests of so many processors."""
    table = {name: entry for name, entry in workloads.workloads(cpus).items() if re.search(options.only, name)}
    if not table:
        return {}
    os.mkdir(folder)
    systems.make_plan(folder, disk, {name: script for name, (_, script) in table.items()}, options.busybox,
                      [os.path.join(GUEST, name) for name in sorted(os.listdir(GUEST))])
    commands = {"native": systems.host_command(folder, disk, cpus), "strata": systems.strata_command(folder, disk, options, cpus)}
    if not options.skip_peer:
        commands["peer"] = systems.peer_command(folder, disk, options, cpus)
    running = {who: systems.System(who, command, options.boot_limit) for who, command in commands.items()}
    found = {who: {name: [] for name in table} for who in running}
    try:
        for turn in range(options.runs):
            for name in table:
                for who, system in running.items():
                    found[who][name].append(system.run(name, options.limit))
            print(f"guest_bench: {cpus} vCPU: round {turn + 1} of {options.runs} done", file=sys.stderr)
    finally:
        for system in running.values():
            system.stop()
    return found


def seconds(found, who, name):
    """The median of what succeeded, or NaN."""
    good = [result.seconds for result in found.get(who, {}).get(name, []) if result is not None]
    return statistics.median(good) if good else math.nan


def faults(found, name):
    """What went wrong with a workload, as text."""
    text = set()
    expected = {result.check for result in found["native"][name] if result is not None and result.status == 0}
    for who, results in found.items():
        for result in results[name]:
            if result is None:
                text.add(f"{who}: no answer")
            elif result.status != 0:
                text.add(f"{who}: status {result.status}")
            elif {result.check} != expected:
                text.add(f"{who}: WRONG RESULT")
    return sorted(text)


def verdict(limit, gain, slowdown):
    """The limits of a workload, each with whether it is met (nothing where the figure is not known)."""
    marks = []
    for value, bound, met, label in ((gain, limit.peer, gain >= limit.peer, f"TCG >= {limit.peer}x"),
                                     (slowdown, limit.native, limit.native is not None and slowdown <= limit.native, f"native <= {limit.native}x")):
        if bound is not None and not math.isnan(value):
            marks.append(label + (" met" if met else " **missed**"))
    return ", ".join(marks)


def print_table(found, cpus):
    """The table of one set of guests; the gains over the peer, and what went wrong."""
    print(f"\n| {cpus} vCPU | native s | Strata s | Strata/native | TCG s | TCG/native | TCG/Strata | limits |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    gains, wrong = {}, []
    for name, (limit, _) in workloads.workloads(cpus).items():
        if name not in found["native"]:
            continue
        native, strata, peer = (seconds(found, who, name) for who in ("native", "strata", "peer"))
        if not math.isnan(peer / strata):
            gains[name] = peer / strata
        bad = faults(found, name)
        wrong += [f"{name}: {text}" for text in bad]
        print(f"| {name} | {native:.3f} | {strata:.3f} | {strata / native:.2f} | {peer:.3f} | {peer / native:.1f} | {peer / strata:.2f} | "
              f"{'; '.join(bad) or verdict(limit, peer / strata, strata / native)} |")
    return gains, wrong


def print_core_gains(found):
    """What the second processor brings, next to what the host's second core brings."""
    for label, (work, one, two) in workloads.GAINS.items():
        if one in found["native"] and two in found["native"]:
            gain = {who: work * seconds(found, who, one) / seconds(found, who, two) for who in found}
            share = gain["strata"] / gain["native"]
            print(f"second processor, {label}: host {gain['native']:.2f}x, Strata {gain['strata']:.2f}x, TCG {gain.get('peer', math.nan):.2f}x; "
                  f"Strata's share of the host's gain {share:.2f} (>= {workloads.GAIN_LIMIT}: {'met' if share >= workloads.GAIN_LIMIT else '**missed**'})")


def report(results):
    """Prints everything; the list of what went wrong."""
    gains, wrong = {}, []
    for cpus, found in results.items():
        more, bad = print_table(found, cpus)
        gains.update({f"{name} ({cpus})": gain for name, gain in more.items()})
        wrong += bad
    print()
    if 2 in results:
        print_core_gains(results[2])
    if gains:
        mean = math.exp(sum(map(math.log, gains.values())) / len(gains))
        slower = [name for name, gain in gains.items() if gain < 1]
        print(f"geometric mean, TCG/Strata: {mean:.2f} over {len(gains)} workloads (>= {workloads.MEAN_LIMIT}: "
              f"{'met' if mean >= workloads.MEAN_LIMIT else '**missed**'}); slower than TCG: {', '.join(slower) or 'none'}")
    return wrong


def add_old_peer(results, path):
    """Takes the peer's figures from an earlier run's JSON."""
    with open(path, encoding="utf-8") as old:
        kept = json.load(old)["runs"]
    for cpus, found in results.items():
        known = kept.get(str(cpus), {}).get("peer", {})
        found["peer"] = {name: [systems.Result(*run) if run else None for run in known.get(name, [])] for name in found["native"]}
    print("(TCG's figures are an earlier run's: for development, not for publication)")


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description="Compares the host, Strata and QEMU's TCG on the same programs.")
    parser.add_argument("--strata", default="build/bin/strata")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--peer", default="qemu-system-x86_64")
    parser.add_argument("--skip-peer", metavar="FILE", help="do not run the peer; its figures from FILE, an earlier --json ('none': no figures). For development")
    parser.add_argument("--busybox", default="/bin/busybox")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpus", type=int, choices=(1, 2), action="append", help="guests with one or with two processors (default: both, in turn)")
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    parser.add_argument("--only", default=".", help="workloads that match this expression")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one workload")
    parser.add_argument("--boot-limit", type=float, default=180, help="seconds until a guest takes requests")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--list", action="store_true", help="name the workloads and end")
    return parser.parse_args()


def main():
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the guests end too
    if options.list:
        for cpus in (1, 2):
            print("\n".join(f"{name} ({cpus} vCPU): {script}" for name, (_, script) in workloads.workloads(cpus).items()))
        return 0
    disk = bench_disk.bench_disk()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for cpus in options.cpus or (1, 2):
            found = measure(options, cpus, disk, f"{folder}/{cpus}")
            if found:
                results[cpus] = found
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"columns": systems.Result._fields, "runs": results}, out, indent=1)
    if options.skip_peer and options.skip_peer != "none":
        add_old_peer(results, options.skip_peer)
    wrong = report(results)
    for text in wrong:
        print(f"guest_bench: {text}", file=sys.stderr)
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())
