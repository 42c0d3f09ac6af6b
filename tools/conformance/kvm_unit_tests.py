#!/usr/bin/env python3
# kvm_unit_tests: runs a built kvm-unit-tests tree (x86 flats) under Strata and, with --peer, under QEMU's TCG, and prints a table.
#
# The tree is not part of this project: build it elsewhere (./configure --arch=x86_64 && make) and name it. Each entry of
# x86/unittests.cfg is one row: how many sub-tests passed, failed, were skipped, and the verdict by the exit code that the
# guest writes to the debug-exit port (0 becomes status 1, as in that project's own run script).
import argparse
import json
import os
import re
import signal
import shlex
import subprocess
import sys
import time

NEEDS_HARDWARE = {"svm", "svm_npt", "vmx", "intel-iommu", "pmu", "pmu_lbr", "pmu_pebs", "hyperv_synic", "hyperv_stimer",
                  "hyperv_clock", "hyperv_connections", "vmware_backdoors", "asyncpf", "tsx-ctrl", "pks", "cet", "lam", "la57"}


def parse_config(path):
    """The entries of unittests.cfg as a list of dicts."""
    entries, entry = [], None
    with open(path, encoding="utf-8") as config:
        for line in config:
            line = line.strip()
            if match := re.fullmatch(r"\[(.+)\]", line):
                entry = {"name": match[1]}
                entries.append(entry)
            elif entry is not None and (match := re.fullmatch(r"(\w+)\s*=\s*(.*)", line)):
                entry[match[1]] = match[2]
    return entries


def cpu_flags(entry):
    """The +flag and -flag parts of the entry's -cpu option."""
    match = re.search(r"-cpu (\S+)", entry.get("qemu_params", entry.get("extra_params", "")))
    return [part for part in match[1].split(",")[1:] if part[0] in "+-"] if match else []


def test_arguments(entry):
    """The kernel's command line; kvmclock_test wants the time of day, which the file asks of a shell."""
    return entry.get("test_args", "").strip("'\"").replace("`date +%s`", str(int(time.time())))


def strata_command(strata, engine, tree, entry):
    arguments = test_arguments(entry)
    cpu = ",".join(["host"] + [flag for flag in cpu_flags(entry) if flag[0] == "-"])
    command = [strata, "run", "--engine", engine, "--kernel", f"{tree}/x86/{entry['file']}", "--memory", "512M",
               "--cpus", entry.get("smp", "1"), "--cpu", cpu, "--net", "none", "--debug-exit", "--no-reboot", "--quiet"]
    return command + (["--append", arguments] if arguments else [])


def peer_command(qemu, tree, entry):
    arguments = test_arguments(entry)
    params = shlex.split(entry.get("qemu_params", entry.get("extra_params", "")))
    command = [qemu, "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-m", "512M", "-smp", entry.get("smp", "1"),
               "-device", "pc-testdev", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-serial", "stdio",
               "-device", "pci-testdev", "-machine", "pc", "-kernel", f"{tree}/x86/{entry['file']}"]
    if "-cpu" not in params:
        command += ["-cpu", "max"]
    return command + params + (["-append", arguments] if arguments else [])


def run(command, limit):
    """Runs one guest; a dict with verdict, counts and seconds."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = None
    text = output.decode("utf-8", "replace")
    counts = {word: len(re.findall(rf"^{word}\b", text, re.M)) for word in ("PASS", "FAIL", "SKIP")}
    verdict = {None: "timeout", 1: "pass", 77: "skip"}.get(status, "fail")  # 77: every sub-test was skipped, or none ran
    if verdict == "pass" and counts["FAIL"]:
        verdict = "fail"
    return {"verdict": verdict, "status": status, **counts, "seconds": round(time.monotonic() - started, 1), "text": text}


def cell(result):
    return f"{result['verdict']} ({result['PASS']}/{result['FAIL']}/{result['SKIP']})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog="The counts are passed/failed/skipped sub-tests.")
    parser.add_argument("tree", help="a built kvm-unit-tests tree")
    parser.add_argument("--strata", default="build/bin/strata")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--peer", metavar="QEMU", help="also run this qemu-system-x86_64 with -accel tcg")
    parser.add_argument("--only", default=".", metavar="REGEX", help="entries whose name matches")
    parser.add_argument("--limit", type=float, default=90, metavar="SECONDS", help="at most this long for a guest")
    parser.add_argument("--logs", metavar="DIR", help="keep each guest's output there")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    rows = []
    for entry in parse_config(f"{options.tree}/x86/unittests.cfg"):
        flat = entry.get("file", "")
        if not re.search(options.only, entry["name"]) or not os.path.exists(f"{options.tree}/x86/{flat}"):
            continue
        if entry.get("arch", "x86_64") != "x86_64" or flat.removesuffix(".flat") in NEEDS_HARDWARE:
            continue
        row = {"name": entry["name"], "strata": run(strata_command(options.strata, options.engine, options.tree, entry), options.limit)}
        if options.peer:
            row["peer"] = run(peer_command(options.peer, options.tree, entry), options.limit)
        rows.append(row)
        for who in ("strata", "peer"):
            if who in row:
                text = row[who].pop("text")
                if options.logs:
                    os.makedirs(options.logs, exist_ok=True)
                    with open(f"{options.logs}/{entry['name']}.{who}.log", "w", encoding="utf-8") as log:
                        log.write(text)
        print(f"| {row['name']} | {cell(row['strata'])} | " + (f"{cell(row['peer'])} |" if "peer" in row else ""), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)
    passed = sum(row["strata"]["verdict"] == "pass" for row in rows)
    print(f"{passed} of {len(rows)} entries pass under Strata ({options.engine})")
    behind = [row["name"] for row in rows if "peer" in row and row["peer"]["verdict"] == "pass" and row["strata"]["verdict"] != "pass"]
    if behind:
        print("pass under the peer only:", " ".join(behind))
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
