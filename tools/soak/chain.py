#!/usr/bin/env python3
# chain: the soak round that runs a Debian guest whose disk is the top of three qcow2 layers over the image's own disk, which stays as it is.
#
# Each of the two lower layers gets its content from a boot of its own. The guest on the top installs packages by apt-get (over the network, checked by dpkg), runs fio with
# verification, gives space back (the host file's blocks are counted before and after), and sees its disk grow while it runs. Then qemu-img judges: its check of every layer,
# what it reads against what Strata reads, the guest's file system in it; and the layers below are, byte for byte, what they were.
import argparse
import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

LAYERS = [("one", ["compat=0.10"]), ("two", ["extended_l2=on", "cluster_size=128k"]), ("top", [])]
PACKAGES = "fio e2fsprogs git curl rsync tmux vim python3-numpy python3-lxml ruby php-cli gdb strace"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 --no-install-recommends"
FIO = ("fio --minimal --eta=never --output=/root/fio.log --directory=/root --ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --size=192m"
       " --name=random --rw=randwrite --bsrange=512-64k --name=mixed --rw=randrw --bs=4k --numjobs=2 --io_size=96m --name=large --rw=write --bs=1m")
COMPLAINTS = "BUG:|WARNING:|Oops|lockup|general protection|Call Trace|I/O error|EXT4-fs error|EXT4-fs warning"


class Guest:
    """Strata with the top of a chain as its disk, driven by the serial console."""

    def __init__(self, options, folder, disk, name):
        with open(os.path.join(folder, "image.json"), encoding="utf-8") as image:
            about = json.load(image)
        self.log = open(os.path.join(options.out, name + ".log"), "wb")
        self.name, self.options, self.seen, self.count = f"soak-{name}-{os.getpid()}", options, "", 0
        command = [options.strata, "run", "--engine", options.engine, "--kernel", os.path.join(folder, about["kernel"]), "--initrd", os.path.join(folder, about["initrd"]), "--append",
                   about["append"], "--disk", f"{disk},format=qcow2,follow", "--cpus", str(options.cpus), "--memory", "1G", "--name", self.name, "--quiet"]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)

    def log_in(self):
        """Waits for the prompt of a shell."""
        self.expect(r"login: ", 900)
        self.send("root\n")
        self.expect(r"# ", 300)
        self.run("stty -echo; export PS1=", 300)

    def expect(self, pattern, limit):
        """Reads until `pattern` is there."""
        end = time.monotonic() + limit
        while True:
            match = re.search(pattern, self.seen)
            if match:
                before, self.seen = self.seen[:match.start()], self.seen[match.end():]
                return before, match
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            try:
                data = os.read(self.fd, 65536) if ready else b""
            except OSError:  # its other end is closed
                data = b""
            if not data:
                raise RuntimeError(f"{self.name}: no {pattern!r}; last: {self.seen[-1500:]!r}")
            self.log.write(data)
            self.log.flush()
            self.seen += data.decode(errors="replace")

    def send(self, text):
        """Types."""
        os.write(self.fd, text.encode())

    def run(self, script, limit=3600):
        """What the script prints; it must end with status 0."""
        self.count += 1
        self.send(f"{{ {script}; }}; echo st''atus-{self.count}-$?\n")
        text, match = self.expect(rf"status-{self.count}-(\d+)\r?\n", limit)
        if match[1] != "0":
            raise RuntimeError(f"{self.name}: {script}: status {match[1]}: {text[-1500:]}")
        return re.sub(r"\x1b\[[?0-9;]*[a-z]|\r", "", text).strip()

    def kill(self):
        """Ends it, if it has not ended."""
        if self.pid != 0:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def power_off(self):
        """The guest ends by itself."""
        self.run(f"! dmesg | grep -E '{COMPLAINTS}'")
        self.send("systemctl poweroff\n")
        self.expect("reboot: Power down", 900)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self.log.close()
        if status != 0:
            raise RuntimeError(f"{self.name}: strata ended with {status}")


class Chain:
    """The layers, and what is done with them."""

    def __init__(self, options):
        self.options, self.guest = options, None
        self.folder = self.call(options.strata, "image", "path", options.image).strip()
        with open(os.path.join(self.folder, "image.json"), encoding="utf-8") as image:
            self.base = os.path.join(self.folder, json.load(image)["disks"][0])

    @staticmethod
    def call(*words):
        """A program's output; it must end with status 0."""
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def path(self, layer):
        """A layer's file."""
        return self.base if layer == "base" else os.path.join(self.options.out, layer + ".qcow2")

    def boot(self, layer):
        """A guest on this layer, logged in."""
        self.guest = Guest(self.options, self.folder, self.path(layer), layer)
        self.guest.log_in()
        return self.guest

    def make(self, layer, below, words):
        """An empty layer over another."""
        name = self.base if below == "base" else below + ".qcow2"
        options = [word for each in words for word in ("-o", each)]
        self.call(self.options.strata, "image", "create", "-f", "qcow2", *options, "-b", name, "-F", "raw" if below == "base" else "qcow2", "--follow", self.path(layer))

    def digests(self, layers):
        """{layer: sha256 of its file}."""
        found = {}
        for layer in layers:
            with open(self.path(layer), "rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 22):
                    digest.update(block)
            found[layer] = digest.hexdigest()
        return found

    def mebibytes(self, layer):
        """Space that the host's file takes."""
        return os.stat(self.path(layer)).st_blocks * 512 / (1 << 20)

    def lower_layers(self):
        """A boot for each: what lies below the top must have content."""
        self.make("one", "base", LAYERS[0][1])
        guest = self.boot("one")
        guest.run(f"{APT} update >/root/update.log 2>&1 || {{ cat /root/update.log; false; }}")
        guest.power_off()
        self.make("two", "one", LAYERS[1][1])
        guest = self.boot("two")
        guest.run("head -c 150M /dev/urandom >/root/old && tar -C /usr -cf /root/usr.tar bin && sha256sum /root/old /root/usr.tar >/root/sums")
        guest.power_off()
        for layer in ("one", "two"):
            say(f"{layer}: {self.mebibytes(layer):.0f} MiB")

    def load(self, guest):
        """A whole installation, and data that is read back."""
        started = time.monotonic()
        guest.run("sha256sum -c /root/sums")
        before = int(guest.run("dpkg-query -W | wc -l"))
        guest.run(f"{APT} install {self.options.packages} >/root/apt.log 2>&1 || {{ tail -n 20 /root/apt.log; false; }}")
        guest.run("dpkg --audit && ! dpkg --verify | grep -v ' c '")
        say(f"top: {int(guest.run('dpkg-query -W | wc -l')) - before} packages installed and verified in {time.monotonic() - started:.0f} s; {guest.run('df -h --output=used / | tail -n 1')} used")
        started = time.monotonic()
        guest.run("while sleep 3; do fstrim /; done 2>/root/trim.log & trimmer=$!")
        guest.run(f"{FIO} && rm -f /root/*.[0-9].0 || {{ cat /root/fio.log; false; }}")
        guest.run("kill $trimmer; ! grep . /root/trim.log")
        say(f"top: fio with verify, fstrim beside it, in {time.monotonic() - started:.0f} s")
        guest.run("sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /root/sums")

    def discards(self, guest):
        """Space that the guest gives back leaves the host's file."""
        guest.run("fstrim /; head -c 300M /dev/urandom >/root/large; sync")
        before = self.mebibytes("top")
        trimmed = guest.run("rm /root/large; sync; fstrim -v /")
        started, after = time.monotonic(), before
        while after > before - 250 and time.monotonic() < started + 60:
            guest.run("date >/root/now; sync; sleep 1")  # clusters are given back by flushes, once their loss is durable
            after = self.mebibytes("top")
        say(f"top: fstrim: {trimmed}; host file {before:.0f} MiB before, {after:.0f} MiB {time.monotonic() - started:.0f} s after")
        if after > before - 250:
            raise RuntimeError("the host's file did not shrink")

    def growth(self, guest):
        """The disk grows while the guest uses it."""
        before = int(guest.run("blockdev --getsize64 /dev/vda"))
        self.call(self.options.strata, "disk", "resize", guest.name, "disk0", "+1G")
        guest.run("for i in $(seq 100); do [ $(blockdev --getsize64 /dev/vda) = %d ] && break; sleep 0.1; done; [ $(blockdev --getsize64 /dev/vda) = %d ]" % ((before + (1 << 30),) * 2))
        guest.run("resize2fs /dev/vda")
        blocks = guest.run("df --output=size -h / | tail -n 1")
        guest.run("dd if=/dev/urandom of=/root/tail bs=1M count=700 && sha256sum /root/tail >>/root/sums && sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /root/sums")
        say(f"top: resized while running from {before >> 20} MiB to {(before >> 20) + 1024} MiB; file system {blocks}")

    def judge(self):
        """qemu-img, and the guest's file system."""
        peer, top = self.options.peer, self.path("top")
        for layer, _ in LAYERS:
            self.call(peer, "check", "-f", "qcow2", self.path(layer))
        raw = os.path.join(self.options.out, "top.raw")
        self.call(peer, "convert", "-f", "qcow2", "-O", "raw", top, raw)
        self.call(self.options.strata, "image", "compare", "-f", "qcow2", "-F", "raw", "--follow", top, raw)
        self.call("/sbin/e2fsck", "-fn", raw)
        os.unlink(raw)
        say(f"qemu-img check: no errors, no leaks in {len(LAYERS)} layers; both read the same; e2fsck -fn: clean")

    def round(self):
        """Everything, once."""
        below, steps = ["base", "one", "two"], [self.load, self.discards, self.growth]
        if self.options.again:
            steps.remove(self.load)
        else:
            self.lower_layers()
        digests = self.digests(below)
        if not self.options.again:
            self.make("top", "two", LAYERS[2][1])
        guest = self.boot("top")
        for step in steps:
            step(guest)
        guest.power_off()
        say(f"top: {self.mebibytes('top'):.0f} MiB")
        if self.digests(below) != digests:
            raise RuntimeError("a layer below has changed")
        say("layers below: sha256 as before")
        self.judge()


def say(text):
    """A line of the summary."""
    print("chain: " + text, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Runs a Debian guest on the top of a qcow2 chain.")
    parser.add_argument("--strata", default="build/bin/strata")
    parser.add_argument("--peer", default="/usr/bin/qemu-img")
    parser.add_argument("--image", default="debian:12")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--packages", default=PACKAGES)
    parser.add_argument("--again", action="store_true", help="go on with the images of a run that was killed behind its installation")
    parser.add_argument("--out", default="build/soak/chain")
    options = parser.parse_args()
    options.strata = os.path.abspath(options.strata)
    options.out = os.path.abspath(options.out)
    started = time.monotonic()
    os.makedirs(options.out, exist_ok=True)
    chain = Chain(options)
    try:
        chain.round()
    except (RuntimeError, OSError, ValueError) as finding:
        if chain.guest is not None:
            chain.guest.kill()
        print(f"chain: FAILED after {time.monotonic() - started:.0f} s, images in {options.out}: {finding}")
        return 1
    print(f"chain: passed in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
