#!/usr/bin/env python3
# NBD bench: Strata's NBD server beside qemu-nbd: the same clients, the same image, in turns.
#
# Each round starts either server over the same file on a Unix socket and measures with QEMU's own client (qemu-img bench) and
# libnbd's (nbdcopy): requests a second at depths 1 and 32, a copy of all, and the server's CPU time for each request. Printed are
# medians and the ratio of each round's pair, which holds on a busy host, too.
# Usage: nbd_bench.py [--build build] [--folder DIR] [--rounds 5] [--size 1024] [--format raw|qcow2] [--cache none]
import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import time

CASES = [("4k read d1", ["-s", "4096", "-d", "1", "-c", "10000"]), ("4k read d32", ["-s", "4096", "-d", "32", "-c", "60000"]),
         ("64k read d32", ["-s", "65536", "-d", "32", "-c", "15000"]), ("4k write d1", ["-w", "-s", "4096", "-d", "1", "-c", "10000"]),
         ("4k write d32", ["-w", "-s", "4096", "-d", "32", "-c", "60000"]), ("64k write d32", ["-w", "-s", "65536", "-d", "32", "-c", "15000"])]


def cpu_seconds(pid):
    """User and system time of a process and its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    def __init__(self, program, options, image, socket):
        self.socket = socket
        cache = ["--cache=none", "--aio=native"] if options.cache == "none" else [f"--cache={options.cache}"]
        self.process = subprocess.Popen([program, "-t", "-e", "16", "-k", socket, "-f", options.format, *cache, image], stdout=subprocess.DEVNULL)
        while not socket.exists():
            if self.process.poll() is not None:
                raise SystemExit(f"{program} does not start")
            time.sleep(0.01)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def end(self):
        self.process.terminate()
        self.process.wait()


def timed(server, command):
    """(seconds by the tool itself or the clock, the server's CPU seconds)"""
    cpu, start = server.cpu(), time.monotonic()
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.monotonic() - start
    told = re.search(r"Run completed in ([\d.]+) seconds", text)
    return float(told.group(1)) if told else seconds, server.cpu() - cpu


def one_round(server, folder):
    uri = f"nbd+unix:///?socket={server.socket}"
    found = {}
    for name, words in CASES:
        count = int(words[-1])
        seconds, cpu = timed(server, ["qemu-img", "bench", "-f", "raw", "-t", "none", *words, uri])
        found[name] = (count / seconds / 1000, cpu / count * 1e6)
    seconds, cpu = timed(server, ["nbdcopy", uri, "null:"])
    size = folder["size"]
    found["nbdcopy, MiB/s"] = (size / seconds, cpu / size * 1e6)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("/var/tmp/nbd-bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--format", default="raw")
    parser.add_argument("--cache", default="none")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    image = options.folder / "disk"
    source = options.folder / "source"
    subprocess.run(["dd", "if=/dev/urandom", f"of={source}", "bs=1M", f"count={options.size}"], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", options.format, source, image], check=True)
    programs = {"strata": (options.build / "bin/qemu-nbd").absolute(), "qemu": shutil.which("qemu-nbd")}
    results = {name: [] for name in programs}
    for turn in range(options.rounds):
        for name in sorted(programs, reverse=turn % 2 == 1):
            server = Server(programs[name], options, image, options.folder / f"{name}.socket")
            results[name].append(one_round(server, {"size": options.size}))
            server.end()
    print(f"{'case':<18} {'strata':>9} {'qemu':>9} {'ratio':>7}   us of CPU: {'strata':>7} {'qemu':>7}")
    for case in results["strata"][0]:
        own, peer = [r[case] for r in results["strata"]], [r[case] for r in results["qemu"]]
        ratio = statistics.median(a[0] / b[0] for a, b in zip(own, peer))
        print(f"{case:<18} {statistics.median(a[0] for a in own):9.2f} {statistics.median(b[0] for b in peer):9.2f} {ratio:7.2f}   "
              f"{'':>11}{statistics.median(a[1] for a in own):7.1f} {statistics.median(b[1] for b in peer):7.1f}")
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
