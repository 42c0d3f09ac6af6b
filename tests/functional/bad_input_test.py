# Bad input: whatever is wrong with options and files, the answer is one clear line and the right status: never a crash, a hang or a trace.
import json
import os
import pathlib
import tempfile
import unittest

from strata_program import IMAGES, run


class BadOptionsTest(unittest.TestCase):
    def check(self, arguments, status, *words):
        result = run(*arguments)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        self.assertEqual(result.stdout, "")
        for word in words:
            self.assertIn(word, result.stderr)

    def test_unknown_words_get_a_hint(self):
        self.check(["rnu"], 2, "'run'")
        self.check(["run", "--egine", "soft"], 2, "--engine")
        self.check(["run", "tiny", "--engine", "xen"], 2, "auto, kvm or soft")
        self.check(["image", "build", "tyny"], 3, "'tiny'")
        self.check(["run", "no-such-image"], 3)
        self.check(["image", "build", "tiny", "--size", "4G"], 2, "--size", "debian:12")

    def test_names(self):
        for name in ("", "a/b", "a b", "a\x01"):
            self.check(["run", "--kernel", "/bin/true", "--name", name], 2, "--name")

    def test_help_is_there_for_groups(self):
        for words in (["image", "--help"], ["image", "-h"], ["help", "image"]):
            result = run(*words)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("image build", result.stdout)
            self.assertNotIn("disk list", result.stdout)

    def test_sizes_out_of_range(self):
        for memory in ("0", "1", "1k", str(2**60), "2E", "99999999999999999999", "-1", "lots", ""):
            self.check(["run", "--kernel", "/bin/true", "--memory", memory], 2)
        for cpus in ("0", "10000", "-1", "", "cores=0", "sockets=300", "sockets=2,sockets=3", "two"):
            self.check(["run", "--kernel", "/bin/true", "--cpus", cpus], 2)

    def test_cpu_models(self):
        self.check(["run", "--kernel", "/bin/true", "--engine", "soft", "--cpu", "pentium9"], 2, "pentium9")
        self.check(["run", "--kernel", "/bin/true", "--engine", "soft", "--cpu", "host,+telepathy"], 2, "telepathy")

    def test_values_missing_or_twice(self):
        self.check(["run", "--cpus"], 2)
        self.check(["run", "--cpus", "1", "--cpus", "2"], 2)
        self.check(["run", "--net", "none", "--net", "user", "--kernel", "/bin/true"], 2)
        self.check(["run", "--timeout", "0", "--kernel", "/bin/true"], 2)
        self.check(["run"], 2, "nothing to boot")

    def test_json_errors_are_json(self):
        result = run("run", "no-such-image", "--json")
        self.assertEqual(result.returncode, 3)
        error = json.loads(result.stderr)["error"]
        self.assertEqual((error["code"], error["kind"]), (3, "not-found"))


class BadFilesTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def file(self, name, content):
        path = self.path / name
        path.write_bytes(content)
        return path

    def check(self, arguments, status):
        result = run("run", "--engine", "soft", "--net", "none", *arguments)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        return result.stderr

    def test_files_that_are_not_there_or_not_files(self):
        self.check(["--kernel", self.path / "gone"], 3)
        self.check(["--kernel", self.path], 2)
        self.check(["--kernel", "/dev/null"], 2)
        self.check(["--kernel", self.file("empty", b"")], 2)
        self.check(["--kernel", "/bin/true", "--disk", self.path / "gone.raw"], 3)
        self.check(["--kernel", "/bin/true", "--disk", self.file("a.raw", b"x" * 512), "--disk", self.path / "a.raw"], 5)
        self.check(["--kernel", "/bin/true", "--initrd", self.path / "gone"], 3)
        self.check(["--kernel", "/bin/true", "--serial", "file:/nowhere/at/all"], 3)

    @unittest.skipIf(os.geteuid() == 0, "root may read every file")
    def test_file_without_permission(self):
        path = self.file("secret", b"x" * 4096)
        path.chmod(0)
        self.check(["--kernel", path], 6)

    def test_kernels_that_are_none(self):
        for name, content in (("text", b"Hello, this is not a kernel.\n" * 100),
                              ("zeros", bytes(100000)),
                              ("elf-header-only", b"\x7fELF\x02\x01\x01" + bytes(57)),
                              ("noise", bytes(range(256)) * 64)):
            self.check(["--kernel", self.file(name, content)], 1)
        self.check(["--kernel", "/bin/true"], 1)

    def test_truncated_kernel(self):
        kernel = IMAGES / "tiny" / "vmlinuz"
        if not kernel.exists():
            self.skipTest("no tiny image")
        whole = kernel.read_bytes()
        for size in (520, 1024, 16384, len(whole) // 2):
            self.check(["--kernel", self.file(f"cut-{size}", whole[:size])], 1)

    def test_memory_too_small_for_the_kernel(self):
        kernel = IMAGES / "tiny" / "vmlinuz"
        if not kernel.exists():
            self.skipTest("no tiny image")
        self.check(["--kernel", kernel, "--memory", "2M"], 1)


if __name__ == "__main__":
    unittest.main()
