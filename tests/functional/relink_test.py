# Relink: a chain of images whose files have moved.
import json
import pathlib
import shutil
import tempfile
import unittest

from strata_program import run


class RelinkTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.old, self.new, self.base = (pathlib.Path(self.folder.name, name) for name in ("old", "new", "base"))
        for each in (self.old, self.new, self.base):
            each.mkdir()
        self.image("create", self.old / "base.raw", "4M", "--format", "raw")
        (self.old / "base.raw").write_bytes(b"base" * (1 << 20))
        self.image("create", self.old / "middle", "4M", "--format", "qcow2", "-o", f"backing_file={self.old}/base.raw,backing_fmt=raw")
        self.image("create", self.old / "top", "4M", "--format", "qcow2", "-o", f"backing_file={self.old}/middle,backing_fmt=qcow2")

    def tearDown(self):
        self.folder.cleanup()

    def image(self, *arguments, status=0):
        done = run("image", *arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def move(self):
        shutil.move(self.old / "base.raw", self.base / "base.raw")
        for name in ("middle", "top"):
            shutil.move(self.old / name, self.new / name)

    def test_moved_chain_reads_as_before(self):
        self.move()
        self.image("convert", self.new / "top", self.new / "flat", "--format", "qcow2", "--follow", status=3)
        told = json.loads(self.image("relink", self.new / "top", "--format", "qcow2", "--follow", "--search", self.base, "--json").stdout)
        self.assertEqual([pathlib.Path(each["file"]).name for each in told], ["middle", "top"])
        self.assertEqual(told[1]["is"], "middle")
        self.image("convert", self.new / "top", self.new / "flat", "--format", "qcow2", "--follow")
        self.assertEqual((self.new / "flat").read_bytes(), b"base" * (1 << 20))
        again = json.loads(self.image("relink", self.new / "top", "--format", "qcow2", "--follow", "--json").stdout)
        self.assertEqual(again, [])

    def test_nothing_changes_before_all_is_found(self):
        self.move()
        before = [(self.new / name).read_bytes() for name in ("middle", "top")]
        self.image("relink", self.new / "top", "--format", "qcow2", "--follow", status=3)
        self.image("relink", self.new / "top", "--format", "qcow2", "--search", self.base, status=6)
        self.image("relink", self.new / "top", "--format", "qcow2", "--follow", "--search", self.base, "--dry-run")
        self.assertEqual([(self.new / name).read_bytes() for name in ("middle", "top")], before)

    def test_strange_layers_are_refused(self):
        self.move()
        with open(self.base / "base.raw", "ab") as file:
            file.truncate(8 << 20)
        self.image("relink", self.new / "top", "--format", "qcow2", "--follow", "--search", self.base, status=5)
        self.image("relink", self.new / "top", "--format", "qcow2", "--follow", "--search", self.base, "--larger")


if __name__ == "__main__":
    unittest.main()
