# Image fixture: makes the tiny image in the build folder for the boot tests; skips if its packages cannot be had.
import sys

import strata_program

if __name__ == "__main__":
    made = strata_program.IMAGES / "tiny" / "image.json"
    if made.exists() and made.stat().st_mtime > strata_program.STRATA.stat().st_mtime:
        print("tiny image: there already")
        sys.exit(0)
    # The program may make another image than it did when this one was built.
    result = strata_program.run("image", "build", "tiny", "--replace", limit=300)
    print(result.stderr)
    if result.returncode != 0 and not made.exists():
        print("skipped: the tiny image cannot be built here (no package source?)")
        sys.exit(strata_program.SKIP)
