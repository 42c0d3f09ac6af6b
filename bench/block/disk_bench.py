#!/usr/bin/env python3
# disk_bench: the block layer next to Debian's qemu-img: the same images, in turn, on the same machine.
#
# Each row (disk_rows.py) runs Strata and the peer alternately, so drift of the machine hits both; a side's figure is the median of its runs, of the options that do best
# for it. Wall time is the process's (for `bench` what it says of its requests), CPU time and peak memory are the kernel's count for the process (memory
# is never less than this script's own 16 MiB: the kernel counts from the fork on). Images are made once, in --work.
# A ratio above 1 means that Strata is faster. Exit status 1: a goal was missed and --strict was given.
import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import disk_rows

SIDES = ("strata", "peer")
TOLERANCE = 0.95  # "equal" within what a shared machine lets one tell


class Bench:
    def __init__(self, options):
        self.options = options
        self.programs = {"strata": os.path.abspath(options.strata), "peer": options.peer}

    def shell(self, script):
        """Preparation, always by the peer."""
        text = script.replace("{peer}", self.programs["peer"]).replace("{size}", str(self.options.size))
        done = subprocess.run(["bash", "-c", text], cwd=self.options.work, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"disk_bench: cannot prepare: {script}\n{done.stderr}")

    def settle(self):
        """What was prepared is written out, so that nobody pays for it later."""
        for name in disk_rows.PREPARED:
            path = os.path.join(self.options.work, name)
            if os.path.exists(path):
                with open(path, "rb") as image:
                    os.fsync(image.fileno())

    def run_once(self, row, side, variant):
        """Wall and CPU seconds, peak KiB of one sample."""
        if row.prepare:
            self.shell(row.prepare)
            self.settle()
        words = shlex.split(row.command.replace("{q}", self.programs[side]).replace("{o}", variant))
        wall = cpu = 0.0
        peak = 0
        for _ in range(row.repeat):
            with tempfile.TemporaryFile() as out:
                start = time.perf_counter()
                process = subprocess.Popen(words, cwd=self.options.work, stdout=out, stderr=subprocess.STDOUT)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                elapsed = time.perf_counter() - start
                out.seek(0)
                text = out.read(4096).decode(errors="replace")
            if process.returncode != 0:
                raise RuntimeError(f"{' '.join(words)}: status {process.returncode}: {text}")
            if row.count:
                elapsed = float(re.search(r"Run completed in ([0-9.]+)", text).group(1))
            wall += elapsed
            cpu += usage.ru_utime + usage.ru_stime
            peak = max(peak, usage.ru_maxrss)
        result = {"wall": wall / row.repeat, "cpu": cpu / row.repeat, "rss": peak}
        if row.out:
            result["out"] = os.stat(os.path.join(self.options.work, row.out)).st_blocks * 512
        return result

    def measure(self, row):
        """The row's figures: for each side the samples of its best variant."""
        samples = {(side, variant): [] for side in SIDES for variant in row.variants}
        for turn in range(self.options.runs):
            for variant in row.variants:
                for side in SIDES if turn % 2 == 0 else reversed(SIDES):
                    samples[side, variant].append(self.run_once(row, side, variant))
        result = {"row": row.name, "goal": row.goal, "requests": row.count}
        for side in SIDES:
            best = min(row.variants, key=lambda each: statistics.median(s["wall"] for s in samples[side, each]))
            mine = samples[side, best]
            result[side] = {key: statistics.median(s[key] for s in mine) for key in mine[0]}
            result[side] |= {"options": best, "min": min(s["wall"] for s in mine), "max": max(s["wall"] for s in mine),
                             "samples": [s["wall"] for s in mine]}
        result["ratio"] = result["peer"]["wall"] / max(result["strata"]["wall"], 1e-9)
        result["cpu_ratio"] = result["peer"]["cpu"] / max(result["strata"]["cpu"], 1e-9)
        return result


def figure(result, side):
    one = result[side]
    if result["requests"]:
        speeds = [result["requests"] / one[key] / 1000 for key in ("wall", "max", "min")]
        return f"{speeds[0]:.1f} ({speeds[1]:.1f}-{speeds[2]:.1f}) k/s", f"{one['cpu'] / result['requests'] * 1e6:.1f} us"
    unit, scale = ("ms", 1000) if one["wall"] < 0.1 else ("s", 1)
    return f"{one['wall'] * scale:.3g} ({one['min'] * scale:.3g}-{one['max'] * scale:.3g}) {unit}", f"{one['cpu']:.3f} s"


def line(result):
    mine, my_cpu = figure(result, "strata")
    theirs, their_cpu = figure(result, "peer")
    sizes = [result[side].get("out", 0) / 2**20 for side in SIDES]
    notes = f"output {sizes[0]:.0f} / {sizes[1]:.0f} MiB" if sizes[0] else ""
    met = "yes" if result["ratio"] >= result["goal"] * TOLERANCE else "no"
    return (f"| {result['row']} | {mine} | {theirs} | {result['ratio']:.2f} | {result['goal']:g} | {met} | {my_cpu} / {their_cpu} | "
            f"{result['strata']['rss'] / 1024:.0f} / {result['peer']['rss'] / 1024:.0f} | {notes} |")


def parse_options():
    parser = argparse.ArgumentParser(description="Compares Strata's block layer with Debian's qemu-img.")
    parser.add_argument("--strata", default="build/bin/qemu-img", help="Strata under the name qemu-img")
    parser.add_argument("--peer", default="/usr/bin/qemu-img")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="a regular expression on the names of groups and rows")
    parser.add_argument("--work", default="build-bench/disk", help="where the images lie: 9 GiB, on a disk")
    parser.add_argument("--size", type=int, default=800, help="MiB of files in the source image")
    parser.add_argument("--json", help="a file for all figures")
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a goal is missed")
    parser.add_argument("--list", action="store_true", help="names the rows")
    return parser.parse_args()


def main():
    options = parse_options()
    rows = [row for group, each in disk_rows.GROUPS.items() for row in each if re.search(options.only, f"{group}: {row.name}")]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    os.makedirs(options.work, exist_ok=True)
    bench = Bench(options)
    began = time.time()
    bench.shell(disk_rows.IMAGES)
    print(f"disk_bench: images ready after {time.time() - began:.0f} s; load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, median of {options.runs}")
    print("| row | Strata | qemu-img | ratio | goal | met | CPU | MiB | |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    results = []
    for row in rows:
        results.append(bench.measure(row))
        print(line(results[-1]), flush=True)
    missed = [each["row"] for each in results if each["ratio"] < each["goal"] * TOLERANCE]
    print(f"disk_bench: {len(results)} rows, {len(missed)} below their goal, {time.time() - began:.0f} s" + "".join(f"\n  {name}" for name in missed))
    if options.json:
        with open(options.json, "w", encoding="ascii") as out:
            json.dump({"load": os.getloadavg(), "runs": options.runs, "seconds": time.time() - began, "rows": results}, out, indent=1)
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
