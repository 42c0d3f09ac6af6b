# Control: a machine that runs, reached by its name: its life, and its disks while the guest writes to them.
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from strata_program import IMAGES, Terminal, run, start

ENGINE = os.environ.get("STRATA_TEST_ENGINE", "soft")
LIMIT = int(os.environ.get("STRATA_TEST_BOOT_LIMIT", "240"))
MIB = 1 << 20
SIZE = 32  # MiB
# Writes the same megabyte, which is not zeros, over the disk.
FILL = f"dd if=/bin/busybox of=/tmp/x bs=1M count=1 2>/dev/null; for i in $(seq 0 {SIZE - 1}); do " \
       "dd if=/tmp/x of=/dev/vda bs=64k seek=$((i * 16)) conv=notrunc 2>/dev/null; done; sync; echo filled $?\n"
# Writes here and there until /tmp/end is there. What it says then is not what the terminal echoes.
LOAD = f"(i=0; while [ ! -e /tmp/end ]; do i=$((i + 1)); dd if=/dev/urandom of=/dev/vda bs=16k count=4 seek=$(((i * 7919) % {SIZE * 64 - 4})) " \
       "conv=notrunc,fsync 2>/dev/null; done; echo load ov''er) & \n"
MODULES = {"scsi": "virtio_scsi", "sata": "ahci"}  # in the tiny image


def image(*arguments):
    done = run("image", *arguments, limit=120)
    assert done.returncode == 0, done.stderr


def credentials(folder):
    """An authority, a server's certificate for localhost and a client's."""
    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    folder.mkdir()
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority", "-keyout", folder / "ca-key.pem", "-out", folder / "ca-cert.pem")
    for who, names in (("server", "subjectAltName=DNS:localhost"), ("client", "extendedKeyUsage=clientAuth")):
        (folder / "extensions").write_text(names + "\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={who}", "-keyout", folder / f"{who}-key.pem", "-out", folder / f"{who}.csr")
        openssl("x509", "-req", "-days", "2", "-in", folder / f"{who}.csr", "-CA", folder / "ca-cert.pem", "-CAkey", folder / "ca-key.pem", "-CAcreateserial",
                "-extfile", folder / "extensions", "-out", folder / f"{who}-cert.pem")


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class ControlTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        os.environ["XDG_RUNTIME_DIR"] = self.folder.name
        self.terminal = None

    def tearDown(self):
        if self.terminal is not None:
            try:
                os.kill(self.terminal.pid, signal.SIGKILL)
                os.waitpid(self.terminal.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # the test has seen its end

    def path(self, name):
        return pathlib.Path(self.folder.name, name)

    def boot(self, disk, options=""):
        self.terminal = Terminal("run", "tiny", "--engine", ENGINE, "--append", "quiet", "--name", "t", "--disk", f"{disk}{options}")
        self.terminal.expect(r"tiny:.*# ", LIMIT)

    def strata(self, *arguments, status=0):
        done = run(*arguments, limit=240)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def command(self, text, answer, limit=120):
        self.terminal.send(text)
        return self.terminal.expect(answer, limit)

    def end(self, disk, kind):
        """Powers off; what the guest read last is what the file holds."""
        self.command("touch /tmp/end\n", r"load over")
        seen = self.command("sync; sha256sum /dev/vda; poweroff -f\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        self.terminal.expect(r"the guest powered off", 60)
        self.assertEqual(self.terminal.wait(), 0)
        self.assertEqual(self.content(disk, kind), seen)

    def content(self, disk, kind):
        if kind != "raw":
            plain = self.path("plain")
            image("convert", disk, plain, "--format", kind, "--follow")
            if shutil.which("qemu-img"):
                subprocess.run(["qemu-img", "check", str(disk)], check=True, capture_output=True)
            disk = plain
        return hashlib.sha256(pathlib.Path(disk).read_bytes()).hexdigest()

    def raw(self, name, size=SIZE):
        disk = self.path(name)
        with open(disk, "wb") as file:
            file.truncate(size * MIB)
        return disk

    def test_life(self):
        self.boot(self.raw("disk"))
        self.assertIn("running", self.strata("machine", "show", "t").stdout)
        self.strata("machine", "pause", "t")
        listed = json.loads(self.strata("machine", "list", "--json").stdout)
        self.assertEqual([(each["name"], each["state"]) for each in listed], [("t", "paused")])
        self.strata("disk", "resize", "t", "disk0", "1G", status=5)
        self.strata("machine", "resume", "t")
        self.strata("disk", "resize", "t", "disk0", "+32M")
        self.command("sleep 1; cat /sys/block/vda/size\n", r"\n131072\r")
        self.command("dd if=/bin/busybox of=/dev/vda bs=64k seek=1016 count=8; echo wrote $?\n", r"wrote 0")
        self.strata("disk", "resize", "t", "disk0", "1M", status=5)
        self.strata("disk", "resize", "t", "disk7", "1G", status=3)
        self.strata("disk", "limits", "t", "disk0", "iops=1000000")
        self.strata("machine", "pause", "nobody", status=3)
        other = run("run", "tiny", "--name", "t", limit=30)
        self.assertEqual(other.returncode, 4, other.stderr)
        self.strata("machine", "stop", "t")
        self.terminal.expect(r"the machine was stopped", 30)

    def test_discs_are_changed_and_ejected(self):
        """Two empty drives, on SATA and SCSI: discs come, are locked by a mount, are forced out."""
        for name, size in (("one.iso", 3), ("two.iso", 5)):
            self.path(name).write_bytes(name.encode() + bytes(size * MIB - len(name)))
        ext = self.path("ext.img")
        if shutil.which("mke2fs"):
            ext.write_bytes(bytes(4 * MIB))
            subprocess.run(["mke2fs", "-q", "-b", "2048", "-t", "ext4", "-O", "^has_journal", str(ext)], check=True)
        self.terminal = Terminal("run", "tiny", "--engine", ENGINE, "--append", "quiet", "--name", "t", "--cdrom", "none", "--disk", "none,media=cdrom,bus=scsi")
        self.terminal.expect(r"tiny:.*# ", LIMIT)
        drives = json.loads(self.strata("disk", "list", "t", "--json").stdout)
        self.assertEqual([(each["disk"], each["size"], each["tray_open"]) for each in drives], [("disk0", 0, False), ("disk1", 0, False)])
        self.strata("disk", "eject", "t", "disk7", status=3)
        for drive in ("disk1", "disk0"):
            self.strata("disk", "change", "t", drive, self.path("one.iso"))
        for sr in ("sr0", "sr1"):
            self.command(f"head -c 7 /dev/{sr}; echo; cat /sys/block/{sr}/size\n", r"one.iso\r\n6144\r")
        for drive in ("disk0", "disk1"):
            self.strata("disk", "change", "t", drive, self.path("two.iso"))
        for sr in ("sr0", "sr1"):
            self.command(f"head -c 7 /dev/{sr}; echo; cat /sys/block/{sr}/size\n", r"two.iso\r\n10240\r")
        for drive in ("disk0", "disk1"):
            self.strata("disk", "eject", "t", drive)
        for sr in ("sr0", "sr1"):
            self.command(f"head -c 7 /dev/{sr}; echo ended $?\n", r"ended 1")
        if not ext.exists():
            return
        for drive in ("disk0", "disk1"):
            self.strata("disk", "change", "t", drive, ext, "-f", "raw")
        self.command("mkdir -p /mnt; modprobe crc32c_generic; modprobe ext4; for d in sr0 sr1; do mount -t ext4 -o ro /dev/$d /mnt && echo in; done; echo moun''ted\n", r"in\r\nin\r\nmounted")
        for drive in ("disk0", "disk1"):
            self.strata("disk", "eject", "t", drive, status=5)
            self.strata("disk", "change", "t", drive, self.path("one.iso"), status=5)
        self.command("umount /mnt; umount /mnt; echo gi''ven\n", r"given")
        self.strata("disk", "eject", "t", "disk0")
        self.command("mount -t ext4 -o ro /dev/sr0 /mnt || mount -t ext4 -o ro /dev/sr1 /mnt; echo agai''n $?\n", r"again 0")
        self.strata("disk", "eject", "t", "disk1", status=5)
        self.strata("disk", "change", "t", "disk1", self.path("one.iso"), "--force")
        self.command("umount /mnt; for d in sr0 sr1; do head -c 7 /dev/$d; done; echo; poweroff -f\n", r"one.iso")
        self.terminal.expect(r"the guest powered off", 60)
        self.assertEqual(self.terminal.wait(), 0)

    def test_nonsense_is_answered(self):
        self.boot(self.raw("disk"))
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.path("strata/t.sock")))
            with line.makefile("rw") as file:
                self.assertIn("strata", json.loads(file.readline()))
                for text in ("nonsense", "[]", '{"execute":"disk-mirror"}', '{"execute":"disk-commit","arguments":{"disk":"disk0","fd":0}}'):
                    file.write(text + "\n")
                    file.flush()
                    self.assertIn("error", json.loads(file.readline()))
        self.assertIn("running", self.strata("machine", "show", "t").stdout)
        self.strata("machine", "stop", "t")

    def test_mirror_of_a_raw_disk_pivots(self):
        self.boot(self.raw("disk"))
        self.command(FILL, r"filled 0")
        self.terminal.send(LOAD)
        self.strata("disk", "mirror", "t", "disk0", self.path("copy"), "--pivot")
        listed = json.loads(self.strata("disk", "list", "t", "--json").stdout)
        self.assertEqual(listed[0]["file"], str(self.path("copy")))
        self.assertEqual(listed[0]["format"], "qcow2")
        time.sleep(1)
        self.strata("disk", "resize", "t", "disk0", "+8M")
        self.end(self.path("copy"), "qcow2")

    def test_backup_is_of_its_beginning(self):
        disk = self.path("disk")
        image("create", disk, f"{SIZE}M", "--format", "qcow2")
        self.boot(disk, ",format=qcow2")
        self.command(FILL, r"filled 0")
        before = self.command("sha256sum /dev/vda\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        refused = self.strata("disk", "backup", "t", "disk0", self.path("export"), "-f", "xva", status=9)  # a stream: out of order it would have holes
        self.assertIn("xva", refused.stderr)
        self.assertFalse(self.path("export").exists())
        job = self.strata("disk", "backup", "t", "disk0", self.path("full"), "--bitmap", "b", "--speed", "8M", "--no-wait").stdout.strip()
        self.terminal.send(LOAD)
        deadline = time.monotonic() + 120
        while True:
            state = [each["state"] for each in json.loads(self.strata("job", "list", "t", "--json").stdout) if each["job"] == job]
            if state == ["done"] or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        self.assertEqual(state, ["done"])
        self.command("touch /tmp/end\n", r"load over")
        now = self.command("sync; sha256sum /dev/vda\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        self.strata("disk", "backup", "t", "disk0", self.path("more"), "--bitmap", "b", "--incremental", "-b", self.path("full"), "-F", "qcow2")
        self.strata("disk", "snapshot", "t", "disk0", "--internal", "s")
        self.strata("machine", "stop", "t")
        self.terminal.expect(r"the machine was stopped", 30)
        self.assertEqual(self.content(self.path("full"), "qcow2"), before)
        self.assertEqual(self.content(self.path("more"), "qcow2"), now)
        self.assertEqual(self.content(disk, "qcow2"), now)

    def on_bus(self, bus, resize):
        """A disk on another bus: limits, a size, a snapshot, a mirror under load."""
        if f"{MODULES[bus]}.ko".encode() not in (IMAGES / "tiny" / "initrd.img").read_bytes():
            self.skipTest("an old tiny image, without this bus' drivers")
        here = lambda text: text.replace("/dev/vda", "/dev/sda")
        self.boot(self.raw("disk"), f",bus={bus}")
        self.command("while [ ! -b /dev/sda ]; do sleep 0.1; done; echo there\n", r"\nthere")
        resize()
        self.strata("disk", "limits", "t", "disk0", "iops=100000")
        self.command(here(FILL), r"filled 0")
        self.terminal.send(here(LOAD))
        self.strata("disk", "snapshot", "t", "disk0", self.path("over"))
        self.strata("disk", "mirror", "t", "disk0", self.path("copy"), "--pivot")
        time.sleep(1)
        self.command("touch /tmp/end\n", r"load over")
        seen = self.command("sync; sha256sum /dev/sda; poweroff -f\n", r"([0-9a-f]{64})  /dev/sda").group(1)
        self.terminal.expect(r"the guest powered off", 60)
        self.assertEqual(self.terminal.wait(), 0)
        self.assertEqual(self.content(self.path("copy"), "qcow2"), seen)

    def test_scsi_disk_takes_part(self):
        def resize():
            self.strata("disk", "resize", "t", "disk0", "+32M")
            self.command("sleep 1; cat /sys/block/sda/size\n", r"\n131072\r")
        self.on_bus("scsi", resize)

    def test_sata_disk_takes_part_but_keeps_its_size(self):
        self.on_bus("sata", lambda: self.strata("disk", "resize", "t", "disk0", "+32M", status=9))

    def serve(self, copy):
        """A server of `copy`, which is at self.path("socket") then."""
        where = self.path("socket")
        where.unlink(missing_ok=True)  # a killed server's
        server = start("image", "serve", "-f", "raw", "--persistent", "--socket", where, copy)
        self.addCleanup(server.communicate)
        self.addCleanup(server.kill)
        deadline = time.monotonic() + 30
        while not where.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return server

    def job_ends(self, job, state):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            states = [each["state"] for each in json.loads(self.strata("job", "list", "t", "--json").stdout) if each["job"] == job]
            if states and states[0] in ("done", "failed", "cancelled"):
                break
            time.sleep(0.2)
        self.assertEqual(states, [state])

    def test_mirror_to_an_export_that_comes_back(self):
        self.boot(self.raw("disk"))
        self.command(FILL, r"filled 0")
        self.terminal.send(LOAD)
        copy = self.raw("copy")
        server = self.serve(copy)
        uri = f"nbd+unix:///?socket={self.path('socket')}"
        self.assertIn("--tls-certificates", self.strata("disk", "mirror", "t", "disk0", "nbds" + uri[3:], status=2).stderr)
        self.strata("disk", "mirror", "t", "disk0", self.path("file"), "--tls-psk", "on", status=2)
        self.strata("disk", "mirror", "t", "disk0", uri, "--reconnect-delay", "x", status=2)
        self.strata("disk", "mirror", "t", "disk0", self.path("file"), "--reconnect-delay", "60", status=2)
        self.strata("disk", "mirror", "t", "disk0", uri.replace("?", "nosuch?"), status=3)
        job = self.strata("disk", "mirror", "t", "disk0", uri, "--speed", "4M", "--no-wait").stdout.strip()
        server.kill()
        self.job_ends(job, "failed")
        server = self.serve(copy)
        self.strata("disk", "mirror", "t", "disk0", uri, "--pivot", "--reconnect-delay", "60")
        for _ in range(2):
            server.kill()
            server.communicate()
            time.sleep(1)
            server = self.serve(copy)
            time.sleep(1)
        listed = json.loads(self.strata("disk", "list", "t", "--json").stdout)
        self.assertIn("nbd+unix:", listed[0]["file"])
        self.command("touch /tmp/end\n", r"load over")
        self.assertNotIn("I/O error", self.terminal.seen)
        seen = self.command("sync; sha256sum /dev/vda; poweroff -f\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        self.assertEqual(self.terminal.wait(60), 0)
        self.assertEqual(self.content(copy, "raw"), seen)

    def peer_serves(self, copy, where, *options):
        """QEMU's server, with TLS."""
        server = subprocess.Popen(["qemu-nbd", "-t", "-f", "raw", "-k", where, *options, copy], stdin=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        deadline = time.monotonic() + 30
        while not where.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return server

    @unittest.skipUnless(shutil.which("qemu-nbd") and shutil.which("openssl"), "no qemu-nbd or openssl")
    def test_copies_go_to_exports_with_tls(self):
        folder = self.path("tls")
        credentials(folder)
        (folder / "keys.psk").write_text("alice:" + "5a" * 32 + "\n")
        x509 = f"tls-creds-x509,id=t,endpoint=server,dir={folder},verify-peer=yes"
        psk = f"tls-creds-psk,id=t,endpoint=server,dir={folder}"
        backup, copy = self.raw("backup"), self.raw("copy")
        one, other = self.path("one"), self.path("other")
        self.peer_serves(backup, one, "--object", psk, "--tls-creds", "t")
        self.peer_serves(copy, other, "--object", x509, "--tls-creds", "t")
        self.boot(self.raw("disk"))
        self.command(FILL, r"filled 0")
        before = self.command("sha256sum /dev/vda\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        uri = f"nbds+unix:///?socket={one}"
        self.strata("disk", "backup", "t", "disk0", uri, "--tls-certificates", self.path("nosuch"), "--tls-psk", "on", status=3)
        self.assertIn("no key of user 'bob'", self.strata("disk", "backup", "t", "disk0", uri, "--tls-certificates", folder, "--tls-psk", "on",
                                                          "--tls-user", "bob", status=3).stderr)
        self.strata("disk", "backup", "t", "disk0", uri, "--tls-certificates", folder, "--tls-psk", "on", "--tls-user", "alice")
        self.assertEqual(self.content(backup, "raw"), before)
        self.terminal.send(LOAD)
        uri = f"nbds+unix:///?socket={other}&tls-certificates={folder}"
        self.assertIn("certificate", self.strata("disk", "mirror", "t", "disk0", uri, "--tls-hostname", "elsewhere", status=6).stderr)
        self.strata("disk", "mirror", "t", "disk0", uri, "--tls-hostname", "localhost", "--pivot", "--reconnect-delay", "60")
        self.command("touch /tmp/end\n", r"load over")
        self.assertNotIn("I/O error", self.terminal.seen)
        seen = self.command("sync; sha256sum /dev/vda; poweroff -f\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        self.assertEqual(self.terminal.wait(60), 0)
        self.assertEqual(self.content(copy, "raw"), seen)

    @unittest.skipUnless(shutil.which("qemu-nbd") and shutil.which("openssl"), "no qemu-nbd or openssl")
    def test_images_are_made_on_exports_with_tls(self):
        folder, others = self.path("tls"), self.path("others")
        credentials(folder)
        credentials(others)
        (folder / "keys.psk").write_text("alice:" + "5a" * 32 + "\n")
        (others / "keys.psk").write_text("alice:" + "5b" * 32 + "\n")
        keyed, sealed = self.raw("keyed", 2 * SIZE), self.raw("sealed", 2 * SIZE)
        one, other = self.path("one"), self.path("other")
        keeper = self.peer_serves(keyed, one, "--object", f"tls-creds-psk,id=t,endpoint=server,dir={folder}", "--tls-creds", "t")
        sealer = self.peer_serves(sealed, other, "--object", f"tls-creds-x509,id=t,endpoint=server,dir={folder},verify-peer=no", "--tls-creds", "t")
        self.boot(self.raw("disk"))
        self.command(FILL, r"filled 0")
        before = self.command("sha256sum /dev/vda\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        empty = self.content(keyed, "raw")
        uri, keys = f"nbds+unix:///?socket={one}", ("--tls-psk", "on", "--tls-user", "alice", "-f", "qcow2")
        self.assertIn(run("disk", "backup", "t", "disk0", uri, "--tls-certificates", others, *keys, limit=60).returncode, (6, 8))  # it hangs up
        self.assertIn("--tls-certificates", self.strata("disk", "backup", "t", "disk0", uri, "-f", "qcow2", status=2).stderr)
        self.assertEqual(self.content(keyed, "raw"), empty)
        self.strata("disk", "backup", "t", "disk0", uri, "--tls-certificates", folder, *keys)
        keeper.kill()
        keeper.wait()
        self.assertEqual(self.content(keyed, "qcow2"), before)
        uri, kind = f"nbds+unix:///?socket={other}&tls-hostname=localhost&tls-certificates=", ("-f", "qcow2")
        self.assertIn("certificate", self.strata("disk", "mirror", "t", "disk0", f"{uri}{others}", *kind, status=6).stderr)
        self.assertEqual(self.content(sealed, "raw"), empty)
        self.terminal.send(LOAD)
        self.strata("disk", "mirror", "t", "disk0", f"{uri}{folder}", *kind, "--pivot")
        self.command("touch /tmp/end\n", r"load over")
        seen = self.command("sync; sha256sum /dev/vda; poweroff -f\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        self.assertEqual(self.terminal.wait(60), 0)
        sealer.kill()
        sealer.wait()
        self.assertEqual(self.content(sealed, "qcow2"), seen)

    def test_backup_to_an_export_that_comes_back(self):
        self.boot(self.raw("disk"))
        self.command(FILL, r"filled 0")
        before = self.command("sha256sum /dev/vda\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        copy = self.path("copy")
        copy.touch()
        os.truncate(copy, (SIZE + 8) * MIB)  # an export does not grow
        server = self.serve(copy)
        job = self.strata("disk", "backup", "t", "disk0", f"nbd+unix:///?socket={self.path('socket')}", "-f", "qcow2", "--speed", "8M",
                          "--reconnect-delay", "60", "--no-wait").stdout.strip()
        self.terminal.send(LOAD)
        time.sleep(1)
        server.kill()
        server.communicate()
        time.sleep(1)
        server = self.serve(copy)
        self.job_ends(job, "done")
        self.command("touch /tmp/end\n", r"load over")
        self.strata("machine", "stop", "t")
        self.terminal.expect(r"the machine was stopped", 30)
        server.kill()
        server.communicate()
        self.assertEqual(self.content(copy, "qcow2"), before)

    def test_layers_of_a_run_stay_where_they_are(self):
        disk = self.path("a.qcow2")
        image("create", "--format", "qcow2", disk, "8M")
        for mode in ("undoable", "nonpersistent"):
            with self.subTest(mode):
                self.boot(disk, f",format=qcow2,mode={mode}")
                for words in (("commit", "t", "disk0"), ("stream", "t", "disk0"), ("snapshot", "t", "disk0", self.path(f"{mode}.qcow2")),
                              ("mirror", "t", "disk0", self.path(f"{mode}.raw"), "--pivot")):
                    self.assertIn("mode", self.strata("disk", *words, status=9).stderr)
                self.strata("disk", "mirror", "t", "disk0", self.path(f"{mode}-copy.raw"), "--keep")
                self.terminal.send("poweroff -f\n")
                self.assertEqual(self.terminal.wait(), 0)

    def test_snapshot_commit_and_stream(self):
        self.boot(self.raw("disk"))
        self.command(FILL, r"filled 0")
        before = self.command("sha256sum /dev/vda\n", r"([0-9a-f]{64})  /dev/vda").group(1)
        self.terminal.send(LOAD)
        self.strata("disk", "snapshot", "t", "disk0", self.path("over"))
        self.assertNotEqual(before, "")
        time.sleep(1)
        self.strata("disk", "commit", "t", "disk0")
        listed = json.loads(self.strata("disk", "list", "t", "--json").stdout)
        self.assertEqual(listed[0]["file"], str(self.path("disk")))
        self.strata("disk", "snapshot", "t", "disk0", self.path("again"))
        time.sleep(1)
        self.strata("disk", "stream", "t", "disk0")
        self.assertEqual(len(json.loads(self.strata("disk", "list", "t", "--json").stdout)[0]["chain"]), 1)
        self.end(self.path("again"), "qcow2")


if __name__ == "__main__":
    unittest.main()
