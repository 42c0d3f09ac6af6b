#!/usr/bin/env python3
# Head check: each source file starts with `Subject: what it is`, headers are guarded, files stay short.
#
# Over 500 lines is a warning; over 800 an error unless the file is generated (.gen.) or says "kept whole:" with its reason in the
# first 30 lines. Usage: check_heads.py [ROOT].
import pathlib
import re
import subprocess
import sys

HEAD = {
    ".h": re.compile(r"^// \S.*: \S|^// \S[^.]*\.\s|^// \S.*$"),
    ".cc": re.compile(r"^// \S"),
    ".S": re.compile(r"^(//|#) \S"),
    ".asm": re.compile(r"^; \S"),
    ".py": re.compile(r"^# \S"),
    ".sh": re.compile(r"^# \S"),
    ".cmake": re.compile(r"^# \S"),
}
SUBJECT = re.compile(r"^(//|#|;) [^:]{2,}: \S")
WARN_LINES = 500
FAIL_LINES = 800


def tracked(root):
    listing = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"],
                             capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        return [root / name for name in listing.stdout.splitlines()]
    folders = ("src", "tests", "tools", "bench", "fuzz", "cmake")
    return [p for folder in folders for p in (root / folder).rglob("*") if p.is_file()]


def check(path, name):
    """Yields (is_error, text) for one file."""
    lines = path.read_text(errors="replace").splitlines()
    if lines and lines[0].startswith("#!"):
        lines = lines[1:]
    head = lines[0] if lines else ""
    if not HEAD[path.suffix].match(head) or not SUBJECT.match(head):
        yield True, f"{name}: the first line must be a comment, 'Subject: what it is'"
    if path.suffix == ".h" and "#pragma once" not in lines:
        yield True, f"{name}: no #pragma once"
    generated = ".gen." in path.name or any("kept whole:" in line for line in lines[:30])
    if len(lines) > FAIL_LINES and not generated:
        yield True, f"{name}: {len(lines)} lines: split it (limit {FAIL_LINES})"
    elif len(lines) > WARN_LINES and not generated:
        yield False, f"{name}: {len(lines)} lines: aim for under {WARN_LINES}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    failed = False
    for path in tracked(root):
        if path.suffix not in HEAD or not path.is_file():
            continue
        for is_error, text in check(path, path.relative_to(root)):
            print(("error: " if is_error else "warning: ") + text)
            failed = failed or is_error
    if not failed:
        print("heads: every file says what it is")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
