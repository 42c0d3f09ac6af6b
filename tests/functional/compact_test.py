# Compact: an image's file made smaller where it lies, also when that is interrupted or killed on the way.
import json
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from strata_program import run, start

MIB = 1 << 20


class CompactTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.image, self.raw = self.folder / "disk.qcow2", self.folder / "disk.raw"
        with open(self.raw, "wb") as out:
            for i in range(256):
                out.write((bytes([i]) if i % 8 == 7 else b"\0") * (MIB // 4))
        # Zeros that are written stay data: the image has its clusters in advance.
        self.good("create", self.image, "64M", "--format", "qcow2", "-o", "preallocation=full")
        subprocess.run(["qemu-img", "convert", "-n", "-S", "0", "-f", "raw", "-O", "qcow2", self.raw, self.image], check=True)

    def good(self, *arguments):
        done = run("image", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def judged(self):
        self.good("check", self.image, "--format", "qcow2", "--repair", "leaks")  # a kill may leave leaks
        self.good("compare", self.image, self.raw, "--format", "qcow2", "--second-format", "raw")

    @unittest.skipUnless(shutil.which("qemu-img"), "no qemu-img to make the image")
    def test_file_shrinks_to_its_data(self):
        before = self.image.stat().st_size
        told = json.loads(self.good("compact", self.image, "--format", "qcow2", "--json"))
        self.assertEqual(told["length"], {"before": before, "after": self.image.stat().st_size})
        self.assertGreater(told["moved"], 0)
        self.assertLess(self.image.stat().st_size, 10 * MIB)
        self.judged()

    @unittest.skipUnless(shutil.which("qemu-img"), "no qemu-img to make the image")
    def test_interrupted_or_killed_it_goes_on(self):
        for number in (signal.SIGINT, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
            process = start("image", "compact", self.image, "--format", "qcow2", "--speed", "40M")
            time.sleep(0.4)
            process.send_signal(number)
            self.assertNotEqual(process.wait(30), 0)
            self.judged()
        self.good("compact", self.image, "--format", "qcow2")
        self.assertLess(self.image.stat().st_size, 10 * MIB)
        self.judged()

    @unittest.skipUnless(shutil.which("qemu-io") and shutil.which("qemu-img"), "no qemu-img to make the image")
    def test_other_formats_shrink_and_go_on(self):
        with open(self.raw, "wb") as out:
            for i in range(48):
                out.write(bytes([i + 1]) * MIB)
        for name in ("vdi", "vhdx", "vpc"):
            with self.subTest(format=name):
                image = self.folder / f"disk.{name}"
                model = self.folder / "model.raw"
                shutil.copy(self.raw, model)
                options = {"vhdx": "block_size=1M", "vpc": "force_size=on", "vdi": "static=off"}[name]
                subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", name, "-o", options, self.raw, image], check=True)
                for file, kind in ((image, name), (model, "raw")):
                    subprocess.run(["qemu-io", "-f", kind, "-c", "write -P 0 2M 20M", "-c", "write -P 0 26M 10M", file], check=True,
                                   stdout=subprocess.DEVNULL)
                for _ in range(3):
                    process = start("image", "compact", image, "--format", name, "--speed", "60M")
                    time.sleep(0.4)
                    process.send_signal(signal.SIGKILL)
                    process.wait(30)
                    self.good("check", image, "--format", name)
                    self.good("compare", image, model, "--format", name, "--second-format", "raw")
                told = json.loads(self.good("compact", image, "--format", name, "--json"))
                self.assertEqual(told["length"]["after"], image.stat().st_size)
                self.assertLess(image.stat().st_size, 28 * MIB)
                if name != "vpc":
                    subprocess.run(["qemu-img", "check", "-f", name, image], check=True, stdout=subprocess.DEVNULL)
                subprocess.run(["qemu-img", "compare", "-f", name, "-F", "raw", image, model], check=True, stdout=subprocess.DEVNULL)

    def test_files_that_the_image_names_are_opened_or_it_is_refused(self):
        base, nothing = self.folder / "base.raw", self.folder / "nothing.raw"
        base.write_bytes(b"B" * (4 * MIB))
        nothing.write_bytes(bytes(4 * MIB))
        overlay, data = self.folder / "top.qcow2", self.folder / "data.qcow2"
        self.good("create", overlay, "4M", "--format", "qcow2", "-o", "preallocation=full")
        self.good("rebase", overlay, "--format", "qcow2", "--name-only", "--backing", base, "--backing-format", "raw")
        self.good("convert", base, data, "--format", "raw", "--output-format", "qcow2", "-o", f"data_file={self.folder / 'bytes'}")
        for image, shown in ((overlay, nothing), (data, base)):
            with self.subTest(image=image.name):
                before = image.read_bytes()
                refused = run("image", "compact", image, "--format", "qcow2")
                self.assertNotEqual(refused.returncode, 0)
                self.assertIn("--follow", refused.stderr)
                self.assertEqual(image.read_bytes(), before)
                self.good("compact", image, "--format", "qcow2", "--follow")
                self.good("compare", image, shown, "--format", "qcow2", "--second-format", "raw", "--follow")


if __name__ == "__main__":
    unittest.main()
