#!/usr/bin/env python3
# Layer check: fails on an include that src/layers.txt does not allow.
#
# A folder of src/ may include itself and the folders of its line; '*' allows all. Usage: check_layers.py [ROOT].
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def read_table(path):
    """The allowed folders of each folder; None stands for all of them."""
    table = {}
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        folder, _, allowed = line.partition(":")
        names = allowed.split()
        table[folder] = None if "*" in names else set(names) | {folder}
    return table


def problems_of(root):
    src = root / "src"
    table = read_table(src / "layers.txt")
    for path in sorted(p for p in src.rglob("*") if p.suffix in (".h", ".cc", ".inc")):
        folder = path.relative_to(src).parts[0]
        if folder not in table:
            yield f"{path.relative_to(root)}: folder '{folder}' is not in src/layers.txt"
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1)
            where = f"{path.relative_to(root)}:{number}"
            first = target.split("/")[0]
            if "/" not in target or first not in table:
                yield f'{where}: "{target}" is not written from src/ (as in "base/result.h")'
            elif table[folder] is not None and first not in table[folder]:
                yield f"{where}: {folder}/ may not include {first}/ (src/layers.txt)"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    found = list(problems_of(root))
    print("\n".join(found) if found else "layers: every include points down")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
