# Full disk: a host file system without room under a guest's disk: the machine waits and loses nothing; or the guest is told, if that is wanted.
import hashlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

from strata_program import IMAGES, Terminal, run

ENGINE = os.environ.get("STRATA_TEST_ENGINE", "soft")
LIMIT = int(os.environ.get("STRATA_TEST_BOOT_LIMIT", "240"))
MIB = 1 << 20
WRITTEN = 16  # MiB
FILL = f"dd if=/bin/busybox of=/tmp/x bs=1M count=1 2>/dev/null; for i in $(seq 0 {WRITTEN - 1}); do " \
       "dd if=/tmp/x of=/dev/vda bs=64k seek=$((i * 16)) conv=notrunc 2>/dev/null || echo dd failed; done; sync; echo filled $?\n"


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class FullDiskTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "strata-full-disk", self.folder.name],
                                 capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            self.folder.cleanup()
            self.skipTest("needs the right to mount a tmpfs")
        self.disk = pathlib.Path(self.folder.name, "disk.raw")
        with open(self.disk, "wb") as file:
            file.truncate((WRITTEN + 1) * MIB)

    def tearDown(self):
        subprocess.run(["umount", "--lazy", self.folder.name], check=False)
        self.folder.cleanup()

    def boot(self, options=""):
        terminal = Terminal("run", "tiny", "--engine", ENGINE, "--append", "quiet", "--disk", f"{self.disk}{options}")
        terminal.expect(r"tiny:.*# ", LIMIT)
        terminal.send(FILL)
        return terminal

    def make_room(self):
        subprocess.run(["mount", "-o", "remount,size=64m", self.folder.name], check=True)

    def end(self, terminal):
        terminal.send("sha256sum /dev/vda; poweroff -f\n")
        seen = terminal.expect(r"([0-9a-f]{64})  /dev/vda", 60).group(1)
        terminal.expect(r"the guest powered off", 60)
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(hashlib.sha256(self.disk.read_bytes()).hexdigest(), seen)

    def test_machine_waits_for_room_and_loses_nothing(self):
        terminal = self.boot()
        terminal.expect(r"the machine is paused: disk '[^']*disk.raw' cannot be written at offset \d+: No space left on device", 60)
        time.sleep(3)  # it tries again, in vain
        self.make_room()
        terminal.expect(r"the machine goes on", 20)
        terminal.expect(r"filled 0", 60)
        self.assertNotIn("dd failed", terminal.seen)
        self.end(terminal)

    def test_qcow2_grows_where_it_stopped(self):
        raw, self.disk = self.disk, self.disk.with_suffix(".qcow2")
        raw.unlink()
        made = run("image", "create", self.disk, f"{WRITTEN + 1}M", "--format", "qcow2")
        self.assertEqual(made.returncode, 0, made.stderr)
        terminal = self.boot(",format=qcow2")
        terminal.expect(r"the machine is paused: disk '[^']*disk.qcow2' cannot be written at offset \d+: No space left on device", 60)
        time.sleep(3)
        self.make_room()
        terminal.expect(r"the machine goes on", 20)
        terminal.expect(r"filled 0", 60)
        self.assertNotIn("dd failed", terminal.seen)
        terminal.send("sha256sum /dev/vda; poweroff -f\n")
        seen = terminal.expect(r"([0-9a-f]{64})  /dev/vda", 60).group(1)
        self.assertEqual(terminal.wait(60), 0)
        checked = run("image", "check", self.disk, "--format", "qcow2")
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        copied = run("image", "convert", self.disk, raw, "--format", "qcow2")
        self.assertEqual(copied.returncode, 0, copied.stderr)
        self.assertEqual(hashlib.sha256(raw.read_bytes()).hexdigest(), seen)

    def test_signal_makes_it_try_at_once(self):
        terminal = self.boot()
        terminal.expect(r"the machine is paused", 60)
        time.sleep(8)  # the next attempt by itself is seconds away
        self.make_room()
        before = time.monotonic()
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.expect(r"the machine goes on", 20)
        self.assertLess(time.monotonic() - before, 4)
        terminal.expect(r"filled 0", 60)
        self.end(terminal)

    def test_guest_is_told_if_that_is_wanted(self):
        terminal = self.boot(",werror=report")
        terminal.expect(r"filled", 60)
        self.assertNotIn("paused", terminal.seen)
        terminal.send("dmesg | grep -c 'I/O error'; poweroff -f\n")
        self.assertGreater(int(terminal.expect(r"\n(\d+)\r", 30).group(1)), 0)
        terminal.expect(r"the guest powered off", 60)
        self.assertEqual(terminal.wait(), 0)

    def test_waiting_machine_can_be_ended(self):
        terminal = self.boot()
        terminal.expect(r"the machine is paused", 60)
        terminal.send("\x1d")
        terminal.send("\x1d")
        terminal.expect(r"left with Ctrl-\]", 30)
        self.assertEqual(terminal.wait(), 0)


if __name__ == "__main__":
    unittest.main()
