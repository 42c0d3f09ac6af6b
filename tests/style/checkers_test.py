# Checker tests: the style checks of tools/ find what they are for, and pass what is right.
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"


def run(check, files):
    """Runs tools/check_CHECK.py over a tree of `files` (path: text); answers (status, output)."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        result = subprocess.run([sys.executable, str(TOOLS / f"check_{check}.py"), folder],
                                capture_output=True, text=True, check=False)
        return result.returncode, result.stdout + result.stderr


TABLE = {"src/layers.txt": "base:\nbus: base\n"}
MAKE = {"Makefile": "test: ## run\n\ttrue\n", "src/cli/run.cc": '{"--engine"}'}


class LayersTest(unittest.TestCase):
    def test_include_downwards_passes(self):
        status, _ = run("layers", TABLE | {"src/bus/a.h": '#include "base/b.h"\n'})
        self.assertEqual(status, 0)

    def test_include_upwards_fails_and_names_the_line(self):
        status, output = run("layers", TABLE | {"src/base/a.h": '\n#include "bus/b.h"\n'})
        self.assertEqual(status, 1)
        self.assertIn("src/base/a.h:2", output)

    def test_unknown_folder_fails(self):
        self.assertEqual(run("layers", TABLE | {"src/new/a.h": ""})[0], 1)


class HeadsTest(unittest.TestCase):
    GOOD = "// Thing: what it is.\n#pragma once\n"

    def test_good_header_passes(self):
        self.assertEqual(run("heads", {"src/a/b.h": self.GOOD})[0], 0)

    def test_missing_head_fails(self):
        self.assertEqual(run("heads", {"src/a/b.h": "#pragma once\n"})[0], 1)

    def test_missing_guard_fails(self):
        self.assertEqual(run("heads", {"src/a/b.h": "// Thing: what it is.\n"})[0], 1)

    def test_very_long_file_fails_unless_it_says_why(self):
        long = "int a;\n" * 900
        self.assertEqual(run("heads", {"src/a/b.cc": "// Thing: x.\n" + long})[0], 1)
        self.assertEqual(run("heads", {"src/a/b.cc": "// Thing: x.\n// kept whole: one table\n" + long})[0], 0)


class DocsTest(unittest.TestCase):
    def test_existing_names_pass(self):
        text = "See `src/cli/run.cc`, `src/<folder>/`, run `make test` and `strata run --engine soft`."
        self.assertEqual(run("docs", MAKE | {"README.md": text})[0], 0)

    def test_dead_path_option_target_and_link_fail(self):
        for text in ("`src/gone.cc`", "`strata run --gone`", "`make gone`", "[x](gone.md)"):
            self.assertEqual(run("docs", MAKE | {"README.md": text})[0], 1, text)


if __name__ == "__main__":
    unittest.main()
