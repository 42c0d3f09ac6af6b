# Running disk: disks of a guest that are not plain files: encrypted ones, exports of NBD servers that come and go.
import hashlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

from strata_program import IMAGES, STRATA, Terminal, environment, run

ENGINE = os.environ.get("STRATA_TEST_ENGINE", "soft")
LIMIT = int(os.environ.get("STRATA_TEST_BOOT_LIMIT", "240"))
MIB = 1 << 20
SIZE = 8  # MiB
# Writes the same megabyte, which is not zeros, over the disk.
FILL = f"dd if=/bin/busybox of=/tmp/x bs=1M count=1 2>/dev/null; for i in $(seq 0 {SIZE - 1}); do " \
       "dd if=/tmp/x of=/dev/vda bs=64k seek=$((i * 16)) conv=notrunc 2>/dev/null; done; sync; echo filled $?\n"


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def path(self, name):
        return self.folder / name

    def strata(self, *arguments):
        done = run(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def boot(self, *options):
        terminal = Terminal("run", "tiny", "--engine", ENGINE, "--append", "quiet", *options)
        terminal.expect(r"tiny:.*# ", LIMIT)
        return terminal

    def fill_and_end(self, terminal):
        terminal.send(FILL)
        terminal.expect(r"filled 0", 120)
        terminal.send("sha256sum /dev/vda; poweroff -f\n")
        seen = terminal.expect(r"([0-9a-f]{64})  /dev/vda", 60).group(1)
        self.assertEqual(terminal.wait(60), 0)
        return seen


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class EncryptedDiskTest(Folder):
    def make(self, name, file_format):
        self.path("key").write_text("geheim")
        self.path("other").write_text("falsch")
        rounds = "iter-time=10" if file_format == "luks" else "encrypt.iter-time=10"  # quick to open
        self.strata("image", "create", self.path(name), f"{SIZE}M", "-f", file_format, "--passphrase-file", self.path("key"), "-o", rounds)
        return self.path(name)

    def written_and_read_back(self, file_format, option):
        disk = self.make("disk", file_format)
        terminal = self.boot("--object", f"secret,id=k,file={self.path('key')}", "--disk", f"{disk},format={file_format},{option}=k")
        seen = self.fill_and_end(terminal)
        self.strata("image", "convert", disk, self.path("raw"), "-f", file_format, "-O", "raw", "--passphrase-file", self.path("key"))
        self.assertEqual(hashlib.sha256(self.path("raw").read_bytes()).hexdigest(), seen)
        start = self.path("raw").read_bytes()[:64]
        self.assertTrue(start.startswith(b"\x7fELF"))
        self.assertFalse(start in disk.read_bytes())

    def test_luks(self):
        self.written_and_read_back("luks", "key-secret")

    def test_qcow2(self):
        self.written_and_read_back("qcow2", "encrypt.key-secret")

    def test_wrong_passphrase_is_told_before_the_guest_starts(self):
        disk = self.make("disk", "luks")
        done = run("run", "tiny", "--object", f"secret,id=k,file={self.path('other')}", "--disk", f"{disk},format=luks,key-secret=k")
        self.assertEqual(done.returncode, 6, done.stderr)
        self.assertIn("Invalid password", done.stderr)
        self.assertIn(str(disk), done.stderr)
        self.assertNotIn("falsch", done.stderr)
        self.assertNotIn("runs on the", done.stderr)

    def test_missing_or_misplaced_secrets_are_told(self):
        disk = self.make("disk", "luks")
        self.assertIn("no secret 'k'", run("run", "tiny", "--disk", f"{disk},format=luks,key-secret=k").stderr)
        self.assertIn("key-secret", run("run", "tiny", "--disk", f"{disk},format=luks").stderr)
        secret = f"secret,id=k,file={self.path('key')}"
        self.assertIn("no such mode", run("run", "tiny", "--object", secret, "--disk", f"{disk},format=luks,key-secret=k,mode=undoable").stderr)
        self.assertIn("raw disk", run("run", "tiny", "--object", secret, "--disk", f"{disk},format=raw,key-secret=k").stderr)
        told = run("run", "tiny", "--object", "secret,id=k,data=geheim", "--disk", f"{disk},format=luks,key-secret=k")
        self.assertEqual(told.returncode, 2)
        self.assertNotIn("geheim", told.stderr)


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class NbdDiskTest(Folder):
    """Guests on disks of `strata image serve`, which is killed while they write."""

    def setUp(self):
        super().setUp()
        self.server = None
        self.addCleanup(self.kill)
        self.socket = self.path("socket")
        self.disk = self.path("disk.raw")
        with open(self.disk, "wb") as file:
            file.truncate(SIZE * MIB)
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def serve(self, *options, file_format="raw", where=None):
        self.server = subprocess.Popen([STRATA, "image", "serve", "-f", file_format, "--persistent", *(where or ("--socket", self.socket)), *options, self.disk],
                                       env=environment(), stdin=subprocess.DEVNULL)

    def wait_for_socket(self):
        deadline = time.monotonic() + 30
        while not self.socket.exists():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def kill(self, number=signal.SIGKILL):
        if self.server is not None:
            self.server.send_signal(number)
            self.server.wait(30)
            self.server = None

    def disk_is(self, seen):
        self.kill(signal.SIGTERM)
        self.assertEqual(hashlib.sha256(self.disk.read_bytes()).hexdigest(), seen)

    def killed_while_the_guest_writes(self, uri, options="", *server, where=None):
        self.serve(*server, where=where)
        terminal = self.boot("--disk", f"{uri},format=raw,reconnect-delay=120,open-timeout=30{options}")
        terminal.send("(while ! [ -e /tmp/end ]; do dd if=/bin/busybox of=/dev/vda bs=64k conv=fsync 2>/dev/null || echo dd failed; done; echo load over) &\n")
        for _ in range(3):
            time.sleep(1)
            self.kill()
            time.sleep(1)
            self.serve(*server, where=where)
        terminal.send("touch /tmp/end\n")
        terminal.expect(r"(?<!echo )load over", 120)
        self.assertNotIn("dd failed\r", terminal.seen)
        self.assertNotIn("I/O error", terminal.seen)
        self.disk_is(self.fill_and_end(terminal))

    def test_killed_server_that_comes_back_loses_nothing(self):
        self.killed_while_the_guest_writes(self.uri)

    def test_killed_server_with_tls_over_tcp(self):
        keys = self.path("tls")
        keys.mkdir()
        (keys / "keys.psk").write_text("alice:" + "5a" * 32 + "\n")
        port = 20000 + os.getpid() % 20000
        self.killed_while_the_guest_writes(f"nbd://127.0.0.1:{port}/", f",tls-certificates={keys},tls-psk=on,tls-user=alice",
                                           "--tls-psk", keys, where=("--bind", "127.0.0.1", "--port", str(port)))

    def test_server_that_stays_away_pauses_the_machine_if_that_is_wanted(self):
        self.serve()
        self.wait_for_socket()
        terminal = self.boot("--disk", f"{self.uri},format=raw,werror=stop,rerror=stop")
        self.kill()
        terminal.send(FILL)
        terminal.expect(r"the machine is paused: the server of disk '[^']*' does not answer", 60)
        time.sleep(2)  # it tries again, in vain
        self.serve()
        terminal.expect(r"the machine goes on", 30)
        terminal.expect(r"filled 0", 120)
        self.assertNotIn("I/O error", terminal.seen)
        terminal.send("sha256sum /dev/vda; poweroff -f\n")
        seen = terminal.expect(r"([0-9a-f]{64})  /dev/vda", 60).group(1)
        self.assertEqual(terminal.wait(60), 0)
        self.disk_is(seen)

    def test_server_that_stays_away_is_an_error_of_the_guests(self):
        self.serve()
        self.wait_for_socket()
        terminal = self.boot("--disk", f"{self.uri},format=raw,reconnect-delay=1")
        self.kill()
        terminal.send("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct; echo status $?; poweroff -f\n")
        terminal.expect(r"\nstatus 1", 60)
        self.assertEqual(terminal.wait(60), 0)

    def test_machine_ends_while_its_server_is_away(self):
        self.serve()
        self.wait_for_socket()
        terminal = self.boot("--disk", f"{self.uri},format=raw,reconnect-delay=3600", "--stop-grace", "0")
        self.kill()
        terminal.send("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct\n")
        time.sleep(2)
        terminal.send("\x1d")
        terminal.expect(r"left with Ctrl-\]", 8)
        self.assertEqual(terminal.wait(8), 0)

    def test_qcow2_there_is_named_and_used(self):
        self.disk.unlink()
        self.disk = self.path("disk.qcow2")
        self.strata("image", "create", self.disk, f"{SIZE}M", "-f", "qcow2")
        os.truncate(self.disk, 2 * SIZE * MIB)  # an export does not grow
        self.serve(file_format="raw")
        self.wait_for_socket()
        refused = run("run", "tiny", "--disk", self.uri)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("format=qcow2", refused.stderr)
        seen = self.fill_and_end(self.boot("--disk", f"{self.uri},format=qcow2"))
        self.kill(signal.SIGTERM)
        self.strata("image", "convert", self.disk, self.path("raw"), "-f", "qcow2", "-O", "raw")
        self.assertEqual(hashlib.sha256(self.path("raw").read_bytes()).hexdigest(), seen)

    def test_what_cannot_be_is_told(self):
        nobody = run("run", "tiny", "--disk", f"{self.uri},format=raw")
        self.assertEqual(nobody.returncode, 8, nobody.stderr)
        self.assertIn(str(self.socket), nobody.stderr)
        self.assertEqual(run("run", "tiny", "--disk", f"{self.uri},format=raw,mode=undoable").returncode, 9)
        self.assertIn("NBD", run("run", "tiny", "--disk", f"{self.disk},reconnect-delay=1").stderr)
        self.assertEqual(run("run", "tiny", "--disk", f"{self.uri},format=raw,reconnect-delay=soon").returncode, 2)


if __name__ == "__main__":
    unittest.main()
