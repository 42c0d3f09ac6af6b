#!/usr/bin/env python3
# jobs: long pieces of work on images that are killed at random moments and run again: convert --resume, commit, rebase (flatten), compact; Debian's qemu-img judges.
#
# A kill leaves the host's cache whole (loss of power is crash_test's part). After each kill the image, or the chain, reads as before; after the run that ends, what was to come of it is
# there, qemu-img's check finds no error but leaks, and compare finds no difference. A finding leaves the folder behind.
import argparse
import os
import random
import signal
import subprocess
import sys
import time

KINDS = [("raw", []), ("qcow2", []), ("qcow2", ["cluster_size=4k"]), ("qcow2", ["extended_l2=on", "cluster_size=64k"]), ("qcow2", ["compat=v2"]), ("vmdk", []), ("vdi", []), ("vhdx", []),
         ("parallels", [])]
SIZE = 24 << 20


class Jobs:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.kills = self.rounds = self.resumed = 0

    def path(self, name):
        return os.path.join(self.options.out, name)

    def run(self, *words, may=(0,)):
        done = subprocess.run(words, cwd=self.options.out, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode not in may:
            raise RuntimeError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def same(self, first, kind, second="expected", second_kind="raw"):
        self.run(self.options.peer, "compare", "-U", "-f", kind, "-F", second_kind, first, second)

    def until_it_ends(self, words, after_kill):
        """Kills it some times, then lets it end."""
        for _ in range(self.random.randrange(1, 5)):
            process = subprocess.Popen([self.options.strata, "image", *words], cwd=self.options.out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(self.random.random() * self.options.patience)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                self.kills += 1
            process.wait()
            after_kill()
            if process.returncode == 0:
                return
        done = self.run(self.options.strata, "image", *words)
        self.resumed += "already" in done.stderr

    def content(self, name, share):
        """A raw file of which about `share` is data."""
        with open(self.path(name), "wb") as out:
            while out.tell() < SIZE:
                length = self.random.randrange(1, 64) * 16384
                if self.random.random() < share:
                    out.write(self.random.randbytes(length // 2) + bytes(length // 2))
                else:
                    out.seek(length, os.SEEK_CUR)
            out.truncate(SIZE)

    def convert(self):
        kind, options = self.random.choice(KINDS)
        self.content("expected", 0.8)
        more = ["--compress"] if kind == "qcow2" and self.random.random() < 0.4 else []
        words = ["convert", "--resume", "--format", "raw", "--output-format", kind, "--speed", "16M", *more, *(["-o", ",".join(options)] if options else []), "expected", "image"]
        self.until_it_ends(words, lambda: None)
        self.same("image", kind)
        self.run(self.options.peer, "check", "-f", kind, "image", may=(0, 3, 63))

    def chain(self):
        """A layer over another; `expected` is what it shows."""
        kind, options = self.random.choice([each for each in KINDS if each[0] == "qcow2"])
        self.content("below", 0.5)
        words = [word for option in options for word in ("-o", option)]
        self.run(self.options.peer, "create", "-q", "-f", kind, *words, "-b", "below", "-F", "raw", "image")
        for _ in range(40):
            at = self.random.randrange(SIZE // 65536 - 20)
            self.run("qemu-io", "-f", kind, "-c", f"write -P {self.random.randrange(1, 256)} {at * 65536} {self.random.randrange(1, 16) * 65536}", "image")
        self.run(self.options.peer, "convert", "-f", kind, "-O", "raw", "image", "expected")

    def commit(self):
        self.chain()
        self.until_it_ends(["commit", "--format", "qcow2", "--follow", "image"], lambda: self.same("image", "qcow2"))
        self.same("below", "raw")
        self.run(self.options.peer, "check", "-f", "qcow2", "image", may=(0, 3))

    def flatten(self):
        self.chain()
        self.until_it_ends(["rebase", "--format", "qcow2", "--follow", "--backing", "", "image"], lambda: self.same("image", "qcow2"))
        os.unlink(self.path("below"))
        self.same("image", "qcow2")
        self.run(self.options.peer, "check", "-f", "qcow2", "image", may=(0, 3))

    def compact(self):
        self.content("expected", 0.4)
        self.run(self.options.peer, "create", "-q", "-f", "qcow2", "-o", "preallocation=full", "image", str(SIZE))
        self.run(self.options.peer, "convert", "-n", "-S", "0", "-f", "raw", "-O", "qcow2", "expected", "image")
        self.until_it_ends(["compact", "--format", "qcow2", "image"], lambda: self.same("image", "qcow2"))
        self.run(self.options.peer, "check", "-f", "qcow2", "image", may=(0, 3))

    def round(self):
        for name in ("image", "below", "expected"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        self.random.choice((self.convert, self.convert, self.commit, self.flatten, self.compact))()
        self.rounds += 1


def main():
    parser = argparse.ArgumentParser(description="Kills Strata's jobs on images and runs them again.")
    parser.add_argument("--strata", default="build/bin/strata")
    parser.add_argument("--peer", default="/usr/bin/qemu-img")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--patience", type=float, default=1.5, help="seconds until a kill, at most")
    parser.add_argument("--out", default="build/soak/jobs")
    options = parser.parse_args()
    options.strata = os.path.abspath(options.strata)
    os.makedirs(options.out, exist_ok=True)
    jobs = Jobs(options)
    end = time.time() + options.seconds
    while time.time() < end:
        try:
            jobs.round()
        except (RuntimeError, subprocess.TimeoutExpired) as finding:
            print(f"jobs: FAILED after {jobs.rounds} rounds, seed {options.seed}, images in {options.out}: {finding}")
            return 1
    print(f"jobs: {jobs.rounds} rounds, {jobs.kills} kills, {jobs.resumed} copies went on, seed {options.seed}: no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
