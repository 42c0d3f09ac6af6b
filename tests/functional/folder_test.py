# Folder test: a folder of the host as a FAT disk, judged by mtools, fsck.fat, the peer's own vvfat, and a guest.
import filecmp
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from strata_program import BUILD, IMAGES, Terminal, environment, run

ENGINE = os.environ.get("STRATA_TEST_ENGINE", "soft")
LIMIT = int(os.environ.get("STRATA_TEST_BOOT_LIMIT", "240"))
START = 63 * 512  # of the partition
KINDS = ("", "12:", "16:", "32:", "floppy:", "12:floppy:", "16:floppy:")


class FolderTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.place = pathlib.Path(temporary.name)
        self.folder = self.place / "folder"
        (self.folder / "sub" / "deeper still").mkdir(parents=True)
        (self.folder / "READ.ME").write_text("short\n")
        (self.folder / "a name of more than thirteen characters.text").write_bytes(os.urandom(70000))
        (self.folder / "größe.txt").write_text("umlauts\n")
        (self.folder / "empty").touch()
        for i in range(40):
            (self.folder / "sub" / f"numbered file {i}").write_text(str(i))
        (self.folder / "sub" / "deeper still" / "exact").write_bytes(os.urandom(8192))

    def image(self, *arguments, status=0):
        done = run("image", *arguments)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def link(self, program, *arguments, status=0):
        done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, env=environment())
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout + done.stderr

    def same(self, one, other):
        found = filecmp.dircmp(one, other)
        self.assertEqual((found.left_only, found.right_only), ([], []))
        self.assertEqual(filecmp.cmpfiles(one, other, found.common_files, shallow=False)[1:], ([], []))
        for each in found.common_dirs:
            self.same(os.path.join(one, each), os.path.join(other, each))

    def copied_out(self, disk, start, name):
        out = self.place / name
        out.mkdir()
        subprocess.run(["mcopy", "-s", "-n", "-i", f"{disk}@@{start}", "::", str(out)], check=True, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, LC_ALL="C.UTF-8", MTOOLS_SKIP_CHECK="1"))
        return out

    @unittest.skipUnless(shutil.which("mcopy") and shutil.which("fsck.fat"), "no mtools or dosfstools")
    def test_others_read_every_kind(self):
        for number, kind in enumerate(KINDS):
            with self.subTest(kind=kind):
                disk = self.place / "disk.raw"
                self.image("convert", f"fat:{kind}{self.folder}", disk, "-O", "raw")
                start = 0 if "floppy" in kind else START
                volume = self.place / "volume"
                with open(disk, "rb") as source, open(volume, "wb") as target:
                    source.seek(start)
                    shutil.copyfileobj(source, target, 1 << 20)
                checked = subprocess.run(["fsck.fat", "-n", "-v", str(volume)], capture_output=True, text=True, check=False)
                self.assertEqual(checked.returncode, 0, checked.stdout)
                self.same(self.folder, self.copied_out(disk, start, f"out{number}"))

    @unittest.skipUnless(shutil.which("qemu-img") and shutil.which("mcopy"), "no qemu-img or mtools")
    def test_peers_disks_hold_the_same(self):
        for kind in ("", "12:"):
            with self.subTest(kind=kind):
                ours, theirs = self.place / "ours.raw", self.place / "theirs.raw"
                self.link(BUILD / "bin" / "qemu-img", "convert", "-O", "raw", f"fat:{kind}{self.folder}", ours)
                self.link("qemu-img", "convert", "-O", "raw", f"fat:{kind}{self.folder}", theirs)
                self.assertEqual(ours.stat().st_size, theirs.stat().st_size)
                # In the peer's disks mtools finds short names alone where a long one is no ASCII, so these are read by their listing.
                self.same(self.folder, self.copied_out(ours, START, f"ours{len(kind)}"))
                for name in ("READ.ME", "a name of more than thirteen characters.text", "sub/numbered file 7", "sub/deeper still/exact"):
                    read = [subprocess.run(["mtype", "-i", f"{disk}@@{START}", f"::{name}"], check=True, capture_output=True,
                                           env=dict(os.environ, MTOOLS_SKIP_CHECK="1")).stdout for disk in (ours, theirs)]
                    self.assertEqual(*read)

    def test_what_cannot_be_is_told(self):
        name = f"fat:{self.folder}"
        self.assertIn("raw", self.image("info", name, "--json"))
        self.assertIn("same", self.image("compare", name, f"fat:{self.folder}", "-f", "raw", "-F", "raw"))
        self.assertIn("leave out rw", self.image("convert", f"fat:rw:{self.folder}", self.place / "o", "-O", "raw", status=6))
        self.assertIn("more than fit", self.image("convert", f"fat:12:floppy:{self.big()}", self.place / "o", "-O", "raw", status=1))
        self.image("resize", name, "1G", "-f", "raw", status=6)
        overlay = self.place / "overlay.q"
        self.link(BUILD / "bin" / "qemu-img", "create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", overlay, "1M")
        self.link(BUILD / "bin" / "qemu-img", "convert", "-O", "raw", overlay, self.place / "o", status=1)
        for words in (["create", "-f", "raw", name, "1M"], ["convert", "-O", "raw", self.folder / "READ.ME", name]):
            self.assertIn("'vvfat' does not support image creation", self.link(BUILD / "bin" / "qemu-img", *words, status=1))
        self.image("convert", overlay, self.place / "o", "-f", "qcow2", "-O", "raw", "--follow", status=9)

    def big(self):
        (self.folder / "big").write_bytes(bytes(3 << 20))
        return self.folder

    @unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
    def test_guest_reads_it(self):
        (self.folder / "message").write_text("from the host\n")
        self.assertIn("a folder is a raw disk", run("run", "tiny", "--disk", f"fat:{self.folder},mode=undoable").stderr)
        self.assertIn("missing", run("run", "tiny", "--disk", f"fat:{self.folder}/missing").stderr)
        terminal = Terminal("run", "tiny", "--engine", ENGINE, "--append", "quiet", "--disk", f"fat:{self.folder}")
        terminal.expect(r"tiny:.*# ", LIMIT)
        terminal.send("mkdir /mnt; modprobe vfat; modprobe nls_cp437; modprobe nls_ascii; mount -t vfat -o ro /dev/vda1 /mnt; echo mounted $?\n")
        terminal.expect(r"mounted 0", 60)
        terminal.send("cat /mnt/message; cat '/mnt/sub/numbered file 7'; echo .; find /mnt -type f | wc -l; sha256sum '/mnt/sub/deeper still/exact'\n")
        terminal.expect(r"from the host\r\n7\.\r\n46\r\n", 60)
        terminal.expect(r"[0-9a-f]{64}", 60)
        (self.folder / "READ.ME").write_text("another text\n")
        terminal.send("cat /mnt/READ.ME || echo 'can''not be read'\n")
        terminal.expect(r"cannot be read", 60)
        terminal.send("touch /mnt/x; dd if=/dev/zero of=/dev/vda bs=512 count=1; poweroff -f\n")
        terminal.expect(r"the guest powered off", 60)
        self.assertEqual(terminal.wait(), 0)

    @unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
    def test_guest_writes_what_is_dropped(self):
        before = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        terminal = Terminal("run", "tiny", "--engine", ENGINE, "--append", "quiet", "--disk", f"fat:{self.folder},mode=nonpersistent")
        terminal.expect(r"tiny:.*# ", LIMIT)
        terminal.send("mkdir /mnt; modprobe vfat; modprobe nls_cp437; modprobe nls_ascii; mount -t vfat /dev/vda1 /mnt; echo mounted $?\n")
        terminal.expect(r"mounted 0", 60)
        terminal.send("echo changed >/mnt/READ.ME; echo new >/mnt/new; umount /mnt; mount -t vfat -o ro /dev/vda1 /mnt; cat /mnt/READ.ME /mnt/new\n")
        terminal.expect(r"changed\r\nnew\r\n", 60)
        terminal.send("poweroff -f\n")
        terminal.expect(r"the guest powered off", 60)
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(before, {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()})


if __name__ == "__main__":
    unittest.main()
