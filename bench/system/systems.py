# systems: the host, a Strata guest and a peer's guest as one thing: something that runs named scripts on request and says what each took.
#
# Each has `guestbench --serve` at its end: a name goes in by standard input or the serial port, a line "BENCH NAME SECONDS CHECK STATUS" comes out.
# The seconds are the guest's own; the host's wall time is taken beside it, and a guest whose clock differs is named. A system that does not answer in
# time, or ends, is started afresh for the next request; one that does not even start ends the run.
import collections
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

Result = collections.namedtuple("Result", "seconds host_seconds check status")

ENVIRONMENT = "PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C"
INIT = f"""#!/bin/busybox sh
export {ENVIRONMENT}
busybox() {{ /bin/busybox "$@"; }}
busybox mkdir -p /proc /dev /root
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in /modules/*; do busybox insmod $module 2>/dev/null; done
for turn in $(busybox seq 100); do [ -b /dev/vda ] || busybox sleep 0.1; done
busybox mount -t ext4 -o DISKMODE /dev/vda /root || echo MOUNT FAILED
busybox mount -t tmpfs tmpfs /root/tmp
busybox mount -t proc proc /root/proc
busybox mount -t sysfs sys /root/sys
busybox mount -t devtmpfs dev /root/dev
busybox cp -r /plan /guestbench /root/tmp/
exec /bin/busybox chroot /root /tmp/guestbench --serve /tmp/plan
"""
NATIVE = f"""set -e
mount -t tmpfs tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
cp -r "$2/plan" "$2/guestbench" "$1/tmp/"
exec env -i {ENVIRONMENT} chroot "$1" /tmp/guestbench --serve /tmp/plan
"""
ANSWER = re.compile(rb"^BENCH (\w+) ([0-9.]+) ([0-9a-f]{16}) (\d+)\r?$", re.M)
CLOCK_SLACK = (0.5, 0.05)  # seconds and share by which the host's wall time may exceed the guest's: start, hashing, the serial line


def make_plan(folder, disk, scripts, busybox, sources, disk_mode="ro"):
    """Builds guestbench and folder/initramfs.cpio of it, the scripts and the disk's modules; folder/plan for the host. `disk_mode`: ro or rw."""
    program = os.path.join(folder, "guestbench")
    command = ["g++", "-std=c++20", "-O2", "-static", "-pthread", "-o", program] + [path for path in sources if path.endswith(".cc")]
    subprocess.run(command, check=True)
    os.mkdir(os.path.join(folder, "plan"))
    for name, script in scripts.items():
        with open(os.path.join(folder, "plan", name), "w", encoding="ascii") as out:
            out.write(script + "\n")
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "bin"))
    shutil.copy(busybox, os.path.join(root, "bin/busybox"))
    shutil.copy(program, os.path.join(root, "guestbench"))
    shutil.copytree(os.path.join(folder, "plan"), os.path.join(root, "plan"))
    shutil.copytree(os.path.join(disk, "modules"), os.path.join(root, "modules"))
    with open(os.path.join(root, "init"), "w", encoding="ascii") as init:
        init.write(INIT.replace("DISKMODE", disk_mode))
    os.chmod(os.path.join(root, "init"), 0o755)
    subprocess.run("find . | cpio -o -H newc --quiet >../initramfs.cpio", shell=True, check=True, cwd=root)


def host_command(folder, disk, cpus):
    """The host itself, in the disk's tree; with one processor, bound to one."""
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    bound = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if cpus == 1 else []
    return bound + ["unshare", "--mount", "--pid", "--fork", "--kill-child"] + rights + ["sh", "-c", NATIVE, "sh", disk + "/root", folder]


def strata_command(folder, disk, options, cpus, drive=None):
    """A guest of Strata; `drive` instead of the disk, which is read-only."""
    return [options.strata, "run", "--engine", options.engine, "--kernel", disk + "/vmlinuz", "--initrd", folder + "/initramfs.cpio", "--append",
            "console=ttyS0 quiet", "--disk", drive or disk + "/disk.ext4,readonly", "--memory", f"{options.memory}M", "--cpus", str(cpus), "--net", "none", "--quiet"]


def peer_command(folder, disk, options, cpus):
    """A guest of QEMU's TCG with the same kernel, initramfs and disk."""
    return [options.peer, "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", disk + "/vmlinuz",
            "-initrd", folder + "/initramfs.cpio", "-append", "console=ttyS0 quiet", "-drive", f"file={disk}/disk.ext4,format=raw,if=none,id=disk,readonly=on",
            "-device", "virtio-blk-pci,drive=disk", "-m", f"{options.memory}M", "-smp", str(cpus)]


class System:
    """One of the systems compared."""

    def __init__(self, name, command, boot_limit):
        self.name, self.command, self.boot_limit = name, command, boot_limit
        self.process, self.seen = None, b""

    def start(self):
        """Starts it and waits until it takes requests."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.seen = b""
        if self._wait(re.compile(rb"^READY\r?$", re.M), self.boot_limit):
            return
        self.stop()
        sys.exit(f"{self.name}: took no requests within {self.boot_limit} s: {' '.join(self.command)}\n{self.seen[-2000:].decode('utf-8', 'replace')}")

    def stop(self):
        """Ends it."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process = None

    def run(self, name, limit):
        """One request: a Result, or None when it did not answer within `limit` seconds."""
        if self.process is None:
            self.start()
        self.seen = b""
        started = time.monotonic()
        try:
            self.process.stdin.write(name.encode() + b"\n")
            self.process.stdin.flush()
            found = self._wait(ANSWER, limit)
        except BrokenPipeError:
            found = None
        if found is None or found[1].decode() != name:
            print(f"{self.name}: {name}: no answer within {limit} s:\n{self.seen[-2000:].decode('utf-8', 'replace')}", file=sys.stderr)
            self.stop()
            return None
        result = Result(float(found[2]), time.monotonic() - started, found[3].decode(), int(found[4]))
        slack, share = CLOCK_SLACK
        if result.host_seconds < result.seconds * (1 - share) or result.host_seconds > result.seconds * (1 + share) + slack:
            print(f"{self.name}: {name}: its clock says {result.seconds:.3f} s, the host's {result.host_seconds:.3f} s", file=sys.stderr)
        return result

    def _wait(self, pattern, limit):
        """Reads until `pattern` is seen: the match, or None."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if select.select([self.process.stdout], [], [], 0.5)[0]:
                chunk = os.read(self.process.stdout.fileno(), 65536)
                if not chunk:
                    return None
                self.seen += chunk
                found = pattern.search(self.seen)
                if found:
                    return found
        return None
