#!/usr/bin/env python3
# disks: images under work that is killed at random moments: writes with flushes, snapshots, resizes, conversions by Strata under the name qemu-img; Debian's qemu-img judges.
#
# A kill leaves the host's cache whole, so this shows what crash_test cannot: real files, the real engines, O_DIRECT, several requests in the kernel. After each kill qemu-img's check
# may find leaks only, and what both programs read must be the same. A finding leaves the image behind. Loss of power is crash_test's part.
import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time

FORMATS = [("qcow2", []), ("qcow2", ["cluster_size=4k"]), ("qcow2", ["extended_l2=on", "cluster_size=64k"]), ("qcow2", ["compat=0.10"]), ("qcow2", ["lazy_refcounts=on"]),
           ("qcow2", ["refcount_bits=64", "cluster_size=512"]), ("vmdk", []), ("vdi", []), ("vpc", ["force_size=on"]), ("vhdx", []), ("parallels", []), ("qcow", []), ("raw", [])]
SNAPSHOTS = {"qcow2"}
RESIZES = {"qcow2", "raw"}
CHECKS = {"qcow2", "vmdk", "vdi", "vhdx", "parallels"}


class Soak:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.strata = os.path.abspath(options.strata)
        self.kills = self.rounds = 0
        self.version2 = False

    def run(self, program, *words, may=(0,)):
        done = subprocess.run([program, *words], cwd=self.options.out, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode not in may:
            raise RuntimeError(f"{os.path.basename(program)} {' '.join(words)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def killed(self, *words):
        """Runs Strata and kills it after a moment, unless it has ended."""
        with open(os.path.join(self.options.out, "last.log"), "wb") as log:
            process = subprocess.Popen([self.strata, *words], cwd=self.options.out, stdout=log, stderr=subprocess.STDOUT)
            try:
                process.wait(self.random.choice((0.01, 0.03, 0.1, 0.3)) * self.random.random() * 2)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                self.kills += 1
                return
        if process.returncode != 0:
            with open(os.path.join(self.options.out, "last.log"), encoding="utf-8", errors="replace") as log:
                raise RuntimeError(f"{' '.join(words)}: status {process.returncode}\n{log.read()[-2000:]}")

    def work(self, kind):
        """One piece of work on the image."""
        deed = self.random.randrange(10)
        if deed == 0 and kind in SNAPSHOTS:
            self.killed("snapshot", "-c", f"s{self.random.randrange(1000)}", "i")
        elif deed == 1 and kind in SNAPSHOTS:
            names = [line.split()[1] for line in self.run(self.options.peer, "snapshot", "-U", "-l", "i").stdout.splitlines()[2:]]
            if names:
                self.killed("snapshot", self.random.choice(("-d", "-a")), self.random.choice(names), "i")
        elif deed == 2 and kind in RESIZES and not self.version2:
            self.killed("resize", "-f", kind, "i", "+1M")
        else:
            size = self.random.choice((512, 4096, 8192, 65536, 1 << 18))
            self.killed("bench", "-f", kind, "-w", "-t", self.random.choice(("none", "writeback", "writethrough")), "-d", "16", "-s", str(size), "-S",
                        str(self.random.randrange(1, 16) * size), "-o", str(self.random.randrange(16) * 262144), "-c", str(self.random.randrange(100, 4000)),
                        "--pattern", str(self.random.randrange(256)), "--flush-interval", str(self.random.choice((16, 64, 1000))), "i")

    def judge(self, kind):
        # Strata first: it mends what a kill left open, as a user's next start would; a log is replayed.
        self.run(self.strata, "bench", "-f", kind, "-w", "-d", "1", "-s", "512", "-c", "1", "i")
        if kind in CHECKS:
            done = self.run(self.options.peer, "check", "-f", kind, "i", may=(0, 2, 3))
            # A VDI image's count of blocks is ahead of its map: that is how a leak looks there, for which qemu-img has no other word.
            ahead = re.search(r"allocated blocks mismatch, is (\d+), should be (\d+)", done.stdout + done.stderr)
            if done.returncode == 2 and not (kind == "vdi" and ahead and int(ahead[1]) < int(ahead[2]) and "1 errors" in done.stdout):
                raise RuntimeError(f"check -f {kind}: {done.stdout}{done.stderr}")
        if self.rounds % 4 == 0:
            self.run(self.strata, "convert", "-f", kind, "-O", "raw", "i", "i.raw")
            self.run(self.options.peer, "compare", "-f", kind, "-F", "raw", "i", "i.raw")

    def round(self):
        kind, options = self.random.choice(FORMATS)
        self.version2 = "compat=0.10" in options  # with snapshots it keeps its size
        words = [word for option in options for word in ("-o", option)]
        for name in ("i", "i.raw"):
            if os.path.exists(os.path.join(self.options.out, name)):
                os.unlink(os.path.join(self.options.out, name))
        self.run(self.strata, "create", "-q", "-f", kind, *words, "i", f"{self.random.choice((8, 32))}M")
        for _ in range(self.random.randrange(1, 8)):
            self.work(kind)
            self.judge(kind)
            self.rounds += 1


def main():
    parser = argparse.ArgumentParser(description="Kills Strata at work on images.")
    parser.add_argument("--strata", default="build/bin/qemu-img")
    parser.add_argument("--peer", default="/usr/bin/qemu-img")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", default="build/soak/disks")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    soak = Soak(options)
    end = time.time() + options.seconds
    while time.time() < end:
        try:
            soak.round()
        except (RuntimeError, subprocess.TimeoutExpired) as finding:
            print(f"disks: FAILED after {soak.rounds} rounds, seed {options.seed}, image in {options.out}: {finding}")
            return 1
    print(f"disks: {soak.rounds} rounds, {soak.kills} kills, seed {options.seed}: no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
