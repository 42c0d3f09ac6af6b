# Image fixture: makes the tiny image in the build folder for the boot tests; skips if its packages cannot be had.
import sys

import strata_program

if __name__ == "__main__":
    if strata_program.run("image", "path", "tiny").returncode == 0:
        print("tiny image: there already")
        sys.exit(0)
    result = strata_program.run("image", "build", "tiny", limit=300)
    print(result.stderr)
    if result.returncode != 0:
        print("skipped: the tiny image cannot be built here (no package source?)")
        sys.exit(strata_program.SKIP)
