#!/usr/bin/env python3
# programs: the soak round that runs real programs in a Debian guest, each of which checks its own results.
#
# stress-ng --verify by classes, Python's own test suite, OpenSSL round trips against Python's hashes, GMP against Python's integers, 7-Zip, and
# apt-get installing and removing a few hundred packages. The guest has two processors and a disk of its own (a copy); rounds repeat until the time is
# over. After each step the kernel log is searched for reports, at the end the disk is checked by e2fsck; the memory beyond guest RAM is noted per round.
import argparse
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path.insert(0, os.path.join(ROOT, "bench", "system"))
import bench_disk  # noqa: E402
import boot_bench  # noqa: E402
import systems  # noqa: E402

INSTALLED = "git curl rsync tmux vim nginx-light postgresql-client python3-numpy python3-lxml graphviz imagemagick ruby php-cli g++ cmake gdb strace ffmpeg"
RECIPE = bench_disk.Recipe(
    packages="stress-ng,python3,libpython3.11-testsuite,python3-gmpy2,openssl,7zip,gcc,libc6-dev,e2fsprogs,perl",
    hook=f"""set -e
mkdir -p "$1/soak/log" "$1/soak/archives/partial"
cp SOURCES "$1/soak"
chroot "$1" apt-get -qq -y -o APT::Sandbox::User=root -o Dir::Cache::Archives=/soak/archives --no-install-recommends --download-only install {INSTALLED}
cp -r "$1/var/lib/apt/lists" "$1/soak/lists"
""",
    sources=[os.path.join(HERE, "openssl.sh"), os.path.join(HERE, "gmp.py")],
    disk_bytes=5 << 30)

STRESS = {
    "cpu": "--cpu 2 --cpu-method all", "vm": "--vm 2 --vm-bytes 128M --vm-method all", "fork": "--fork 2 --clone 1", "switch": "--switch 2",
    "mmap": "--mmap 2 --mmap-bytes 64M --mremap 1 --mprotect 1", "signals": "--sigsegv 1 --sigfpe 1 --sigq 1 --sigsuspend 1", "locks": "--futex 1 --mutex 1 --atomic 1",
    "strings": "--memcpy 1 --str 1 --bsearch 1 --qsort 1", "vectors": "--vecmath 1 --matrix 1 --fp-error 1", "pipes": "--pipe 1 --eventfd 1 --sock 1",
}
PYTHON = ("test_math test_cmath test_float test_long test_int test_fractions test_struct test_array test_random test_statistics test_zlib test_bz2 test_lzma "
          "test_hashlib test_hmac test_re test_json test_pickle test_memoryview test_mmap test_threading test_generators test_decimal")
APT = "apt-get -q -y -o Dir::Cache::Archives=/soak/archives -o Dir::State::Lists=/soak/lists --no-install-recommends --no-download"
KERNEL_LOG = "! dmesg | grep -E 'BUG:|WARNING:|Oops|lockup|stall|general protection|invalid opcode|Call Trace|I/O error|EXT4-fs error'"


def steps(seconds):
    """{name: script}; each writes its log to /soak/log and ends with a status."""
    table = {f"stress_{name}": f"stress-ng --verify --temp-path /tmp --timeout {seconds} {words}" for name, words in STRESS.items()}
    table["python"] = f"python3 -m test {PYTHON}"
    table["openssl"] = "sh /soak/openssl.sh"
    table["gmp"] = "python3 /soak/gmp.py"
    table["7zip"] = "tar -cf - -C / usr/lib/python3.11 | head -c 30000000 >/tmp/in; rm -f /tmp/a.7z; 7zz a -mmt2 /tmp/a.7z /tmp/in && 7zz t /tmp/a.7z; s=$?; rm -f /tmp/in /tmp/a.7z; exit $s"
    table["apt_install"] = f"export DEBIAN_FRONTEND=noninteractive; {APT} install {INSTALLED} && dpkg --audit && convert -version && ffmpeg -version && git --version"
    table["apt_remove"] = f"export DEBIAN_FRONTEND=noninteractive; {APT} autoremove --purge {INSTALLED} && dpkg --audit"
    table["kernel_log"] = KERNEL_LOG
    table["sync"] = "sync"
    return {name: f"{{ {script}\n}} >/soak/log/{name} 2>&1" for name, script in table.items()}


class Soak:
    """The rounds and what they found."""

    def __init__(self, options, guest, log):
        self.options, self.guest, self.log = options, guest, log
        self.done, self.failures, self.memory = 0, [], []

    def say(self, text):
        """A line for the log and the screen."""
        print(text, flush=True)
        self.log.write(text + "\n")
        self.log.flush()

    def step(self, name):
        """Runs one step; False when the guest has to be given up."""
        result = self.guest.run(name, self.options.limit)
        self.done += 1
        if result is None or result.status != 0:
            self.failures.append(name)
            self.say(f"programs: FAILED: {name}: {'no answer' if result is None else f'status {result.status}'}")
        else:
            self.say(f"programs: {name}: good, {result.seconds:.0f} s")
        return result is not None

    def rounds(self, names, end):
        """Every step, again and again until the time is over."""
        while True:
            for name in names:
                if time.monotonic() > end:
                    return
                if not self.step(name) or (name != "kernel_log" and not self.step("kernel_log")):
                    return
                self.memory.append(boot_bench.memory_beyond_ram(self.guest.process.pid, self.options.memory << 20))


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs programs that check themselves in a Debian guest.")
    parser.add_argument("--strata", default="build/bin/strata")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--busybox", default="/bin/busybox")
    parser.add_argument("--budget", type=float, default=float(os.environ.get("BUDGET", "3600")), help="seconds for all rounds")
    parser.add_argument("--seconds", type=int, default=60, help="for each class of stress-ng")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for one step")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=2048, help="MiB")
    parser.add_argument("--only", nargs="*", help="these steps")
    parser.add_argument("--out", default="build/soak")
    return parser.parse_args()


def main():
    options = parse_options()
    os.makedirs(options.out, exist_ok=True)
    disk = bench_disk.bench_disk(RECIPE)
    drive = os.path.join(options.out, "programs.ext4")
    subprocess.run(["cp", "--sparse=always", disk + "/disk.ext4", drive], check=True)
    guest_folder = os.path.join(ROOT, "bench", "guest")
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(options.out, "programs.log"), "w", encoding="utf-8") as log:
        scripts = steps(options.seconds)
        systems.make_plan(folder, disk, scripts, options.busybox, [os.path.join(guest_folder, name) for name in sorted(os.listdir(guest_folder))], "rw")
        guest = systems.System("strata", systems.strata_command(folder, disk, options, options.cpus, drive), 300)
        soak = Soak(options, guest, log)
        started = time.monotonic()
        try:
            guest.start()
            soak.rounds(options.only or [name for name in scripts if name not in ("kernel_log", "sync")], started + options.budget)
            if guest.process is not None:
                guest.run("sync", 60)
        finally:
            guest.stop()
        checked = subprocess.run(["e2fsck", "-fp", drive], capture_output=True, text=True, check=False, env=dict(os.environ, PATH=os.environ["PATH"] + ":/sbin"))
        if checked.returncode > 1:
            soak.failures.append("e2fsck")
            soak.say(f"programs: FAILED: e2fsck: {checked.stdout[-1000:]}")
        for name in sorted(set(soak.failures) - {"e2fsck"}):
            shown = subprocess.run(["/sbin/debugfs", "-R", f"cat /soak/log/{name}", drive], capture_output=True, text=True, errors="replace", check=False)
            soak.say(f"--- end of the log of {name}:\n{shown.stdout[-3000:]}")
        memory = f", memory beyond guest RAM {soak.memory[0]:.0f} MiB at first, {soak.memory[-1]:.0f} at last, {max(soak.memory):.0f} at most" if soak.memory else ""
        soak.say(f"soak: programs: {soak.done} steps in {time.monotonic() - started:.0f} s, {len(soak.failures)} failure(s){memory}")
    if not soak.failures:
        os.remove(drive)
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
