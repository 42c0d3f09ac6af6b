# Resume: copies of images that are killed and go on: where they were, unless the source or the target is another since.
import fcntl
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from strata_program import run, start, wait_until

MIB = 1 << 20


class ResumeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.source, self.target = self.folder / "source.raw", self.folder / "target"
        self.record = pathlib.Path(f"{self.target}.resume")
        with open(self.source, "wb") as out:
            for i in range(12):
                out.write(random.Random(i).randbytes(MIB) + b"text " * (MIB // 5) + bytes(MIB + MIB % 5))

    def words(self, kind, *more):
        return ("image", "convert", "--resume", "--format", "raw", "--output-format", kind, *more, self.source, self.target)

    def good(self, *arguments):
        done = run(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def stopped(self, words, seconds, number=signal.SIGKILL):
        """Runs it and stops it so long after its record is there; it writes 4 MiB a second of 24."""
        with start(*words, "--speed", "4M") as process:
            self.assertTrue(wait_until(self.record.exists, 60))
            time.sleep(seconds)
            process.send_signal(number)
            self.assertNotEqual(process.wait(60), 0)

    def judged(self, kind):
        self.assertFalse(self.record.exists())
        self.good("image", "compare", "--format", kind, "--second-format", "raw", self.target, self.source)
        if shutil.which("qemu-img"):
            check = subprocess.run(["qemu-img", "check", "-q", "-f", kind, self.target], check=False)
            self.assertIn(check.returncode, (0, 3, 63))  # a kill may leave leaks
            subprocess.run(["qemu-img", "compare", "-q", "-f", kind, "-F", "raw", self.target, self.source], check=True)

    def killed_and_finished(self, kind, *more):
        words = self.words(kind, *more)
        for seconds in (1.4, 0.3 + random.random()):
            self.stopped(words, seconds)
        self.assertTrue(self.record.exists())
        self.assertIn("already", self.good(*words))
        self.judged(kind)

    def test_raw(self):
        self.killed_and_finished("raw")

    def test_qcow2(self):
        self.killed_and_finished("qcow2")

    def test_qcow2_compressed(self):
        self.killed_and_finished("qcow2", "--compress", "-o", "compression_type=zstd,cluster_size=4096")

    def test_other_formats(self):
        for kind in ("vmdk", "vdi", "vhdx", "vpc"):
            with self.subTest(kind):
                self.killed_and_finished(kind)
                self.target.unlink()

    def test_interrupted_it_does_nothing_again(self):
        self.stopped(self.words("qcow2"), 0.6, signal.SIGINT)
        self.assertIn("already", self.good(*self.words("qcow2")))
        self.judged("qcow2")

    def test_another_source_target_or_option_starts_anew(self):
        def change_source():
            with open(self.source, "r+b") as out:
                out.write(b"changed")

        def remake_target():
            self.good("image", "create", "--format", "qcow2", self.target, str(self.source.stat().st_size))

        def replace_target():
            copy = self.folder / "copy"
            shutil.copy(self.target, copy)
            os.replace(copy, self.target)

        for change, words in ((change_source, self.words("qcow2")), (remake_target, self.words("qcow2")), (replace_target, self.words("qcow2")),
                              (lambda: None, self.words("qcow2", "-o", "cluster_size=4096"))):
            with self.subTest(change=change.__name__):
                self.stopped(self.words("qcow2"), 1.4)
                self.assertTrue(self.record.exists())
                change()
                self.assertNotIn("already", self.good(*words))
                self.judged("qcow2")

    def test_copy_without_resume_forgets_the_record(self):
        self.stopped(self.words("qcow2"), 1.4)
        self.good("image", "convert", "--format", "raw", "--output-format", "qcow2", self.source, self.target)
        self.judged("qcow2")

    def begun(self, words):
        """Stops it once it has put something down."""
        with start(*words, "--speed", "4M") as process:
            self.assertTrue(wait_until(self.record.exists, 60))
            process.send_signal(signal.SIGINT)
            self.assertNotEqual(process.wait(30), 0)
        self.assertTrue(self.record.exists())

    def refused(self, *words):
        done = run(*words)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def kept(self, *words):
        """It is refused, and leaves the target and what was put down as they are."""
        before = self.target.read_bytes(), self.record.read_bytes()
        told = self.refused(*words)
        self.assertTrue(self.record.exists(), told)
        self.assertTrue(before == (self.target.read_bytes(), self.record.read_bytes()), told)
        return told

    def test_target_in_use_is_kept(self):
        self.begun(self.words("raw"))
        with open(self.target, "rb") as other:
            write_in_use = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
            fcntl.fcntl(other, 37, write_in_use)  # F_OFD_SETLK
            self.assertIn("in use", self.kept(*self.words("raw")))
            for anew in (self.words("raw", "--compress"), self.words("raw", "-o", "size=1G")):
                self.kept(*anew)
            self.assertIn("in use", self.kept("image", "convert", "--format", "raw", self.source, self.target))
        self.assertIn("already", self.good(*self.words("raw")))
        self.judged("raw")

    def test_what_cannot_be_made_anew_is_kept(self):
        self.begun(self.words("qcow2"))
        self.kept(*self.words("qcow2", "-o", "cluster_size=5"))
        self.assertIn("already", self.good(*self.words("qcow2")))
        self.judged("qcow2")

    def test_mistyped_passphrase(self):
        right, wrong = self.folder / "right", self.folder / "wrong"
        right.write_text("right\n")
        wrong.write_text("wrong\n")
        words = self.words("qcow2", "-o", "encrypt.iter-time=1", "--target-passphrase-file")
        self.begun((*words[:-2], right, *words[-2:]))
        self.kept(*words[:-2], wrong, *words[-2:])
        self.assertIn("already", self.good(*words[:-2], right, *words[-2:]))

    def test_places_that_cannot_be_read_say_nothing(self):
        broken = f"nodes:driver=fault,rules.0.iotype=read,rules.0.errno=EIO,rules.0.from=4096,rules.0.length=512,file.driver=raw,file.file.filename={self.source}"
        words = (*self.words("raw", "--salvage")[:-2], broken, self.target)
        self.begun(words)
        self.assertIn("was made to fail", self.kept(*words[:2], *(each for each in words[2:] if each != "--salvage")))
        self.assertIn("already", self.good(*words))
        wanted = bytearray(self.source.read_bytes())
        wanted[4096:4608] = bytes(512)
        self.assertTrue(self.target.read_bytes() == wanted)

    def test_what_is_no_record_is_neither_replaced_nor_followed(self):
        other = self.folder / "other"
        self.target.write_bytes(b"old")
        for name in (self.record, pathlib.Path(f"{self.record}.new")):
            for link in (False, True):
                with self.subTest(name=name.name, link=link):
                    other.write_bytes(b"mine")
                    name.symlink_to(other) if link else name.write_bytes(b"mine")
                    self.assertIn("in the way", self.refused(*self.words("raw")))
                    self.assertEqual((self.target.read_bytes(), other.read_bytes(), name.read_bytes()), (b"old", b"mine", b"mine"))
                    self.assertEqual(name.is_symlink(), link)
                    name.unlink()

    def test_what_cannot_go_on_is_told(self):
        for words in (self.words("vmdk", "-o", "subformat=streamOptimized"), self.words("ova"), self.words("xva")):
            self.assertIn("--resume", self.refused(*words))
            self.assertFalse(self.target.exists())
            self.target.write_bytes(b"old")
            self.assertIn("--resume", self.refused(*words))
            self.assertEqual(self.target.read_bytes(), b"old")
            self.target.unlink()


if __name__ == "__main__":
    unittest.main()
