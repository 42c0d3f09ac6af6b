#!/usr/bin/env python3
# Docs check: paths, make targets and strata options that the documents name must exist.
#
# Looked at: *.md in the root and under docs/. A path is `code` that starts with a folder of the repository; names with
# placeholders (<x>, NAME, …) are left alone. Options are those on lines that call `strata`. Usage: check_docs.py [ROOT].
import pathlib
import re
import sys

CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FOLDERS = ("src/", "tests/", "tools/", "docs/", "bench/", "fuzz/", "cmake/", ".ci/")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
CALL = re.compile(r"(?:^|[\s`$(/])strata (?:run|info|image|version|completion|help)\b[^`\n|;&]*")
PLACEHOLDER = re.compile(r"[<>*…$]|\b[A-Z]{3,}\b|NNNN")


def expand(path):
    """a/{b,c}/d as its two paths."""
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    return [p for part in match.group(1).split(",")
            for p in expand(path[:match.start()] + part.strip() + path[match.end():])]


def known_options(root):
    text = "".join(p.read_text(errors="replace") for p in sorted((root / "src" / "cli").rglob("*.cc"))
                   if not p.name.endswith("_test.cc"))
    return set(OPTION.findall(text)) | {"--help"}


def make_targets(root):
    return set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))


def path_problems(root, document, line):
    for name in CODE.findall(line):
        name = name.split()[0].rstrip(".,:;")
        if not name.startswith(FOLDERS) or PLACEHOLDER.search(name):
            continue
        for path in expand(name):
            if not (root / path.split("::")[0]).exists():
                yield f"no such path: {path}"
    for target in LINK.findall(line):
        if "://" not in target and not target.startswith("mailto:") and not (document.parent / target).exists():
            yield f"dead link: {target}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    options, targets, failed = known_options(root), make_targets(root), False
    documents = sorted(root.glob("*.md")) + sorted((root / "docs").rglob("*.md"))
    for document in documents:
        for number, line in enumerate(document.read_text().splitlines(), 1):
            found = list(path_problems(root, document, line))
            for call in CALL.findall(line):
                found += [f"strata has no option {o}" for o in OPTION.findall(call) if o not in options]
            found += [f"no make target: {t}" for t in re.findall(r"`make ([a-z]+)", line) if t not in targets]
            for text in found:
                failed = True
                print(f"{document.relative_to(root)}:{number}: {text}")
    if not failed:
        print(f"docs: {len(documents)} documents name only what exists")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
