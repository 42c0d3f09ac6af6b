# Resume: copies of images that are killed and go on: where they were, unless the source or the target is another since.
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from strata_program import run, start

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
        """Runs and stops it; it writes 8 MiB a second of 24."""
        with start(*words, "--speed", "8M") as process:
            time.sleep(seconds)
            process.send_signal(number)
            self.assertNotEqual(process.wait(30), 0)

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

    def test_what_cannot_go_on_is_told(self):
        refused = run(*self.words("vmdk", "-o", "subformat=streamOptimized"))
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("--resume", refused.stderr)
        self.assertFalse(self.target.exists())


if __name__ == "__main__":
    unittest.main()
