#!/usr/bin/env python3
# iotests: runs QEMU's own image tests (tests/qemu-iotests of Debian's source package) with Strata in qemu-img's place.
#
# The tests are not part of this project: `--source` names an unpacked tree, or the tool fetches Debian's source package with
# apt into `--cache` (with a deb-src entry of its own: the machine's sources stay as they are). A test that starts a system
# emulator or a storage daemon is not run: it tests those. Each remaining test runs in a folder of its own, once with the
# program in question and, with --peer, once with QEMU's own programs, since some fail on a given host with those too.
# Verdicts: passed; failed (its diff is kept under --keep); not applicable (the test itself says so for this format, or it needs
# the emulator).
import argparse
import concurrent.futures
import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

EMULATOR = re.compile(r"_launch_qemu|\$QEMU\b|iotests\.VM\(|QMPTestCase|launch_qmp|QemuStorageDaemon|\$QSD\b|_launch_qsd|do_run_qemu\b|run_qemu\b|"
                      r"QEMU_PROG|qemu_tool_popen|QMPSDTestCase|\bqsd\b|_storage_daemon|from iotests import.*\bVM\b|MigrationFile")
FORMATS = ["raw", "qcow2", "qcow", "vmdk", "vdi", "vpc", "vhdx", "parallels", "qed", "luks", "bochs", "cloop", "dmg"]
SOURCES = """Types: deb-src
URIs: {uri}
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def debian_mirror():
    """The archive that this machine's apt uses, so that the tool reaches what apt reaches."""
    listing = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
                             capture_output=True, text=True, check=False).stdout
    sites = [site for site in listing.split() if site.rstrip("/").endswith("/debian")]
    return sites[0] if sites else "http://deb.debian.org/debian"


def fetch(cache):
    """Unpacks Debian's qemu source under `cache` and returns its tree."""
    unpacked = list(cache.glob("qemu-*/tests/qemu-iotests/check"))
    if unpacked:
        return unpacked[0].parents[2]
    lists = cache / "apt"
    (lists / "lists/partial").mkdir(parents=True, exist_ok=True)
    (lists / "sources").mkdir(exist_ok=True)
    (lists / "sources/src.sources").write_text(SOURCES.format(uri=debian_mirror()))
    config = lists / "apt.conf"
    config.write_text(f'Dir::Etc::SourceList "/dev/null";\nDir::Etc::SourceParts "{lists}/sources";\nDir::State::Lists "{lists}/lists";\n')
    env = dict(os.environ, APT_CONFIG=str(config))
    subprocess.run(["apt-get", "-q", "update"], env=env, check=True, stdout=sys.stderr)
    subprocess.run(["apt-get", "-q", "source", "--download-only", "qemu"], env=env, check=True, cwd=cache, stdout=sys.stderr)
    archive = next(cache.glob("qemu_*.orig.tar.xz"))
    subprocess.run(["tar", "xf", archive, "--wildcards", "*/tests/qemu-iotests", "*/python"], cwd=cache, check=True)
    return next(cache.glob("qemu-*/tests/qemu-iotests/check")).parents[2]


def needs_emulator(test):
    return bool(EMULATOR.search(test.read_text(encoding="utf-8", errors="replace")))


def candidates(tests, wanted):
    names = sorted(path for path in tests.glob("[0-9][0-9][0-9]"))
    names += sorted(path for path in (tests / "tests").iterdir() if path.with_name(path.name + ".out").exists())
    return [path for path in names if not wanted or path.name in wanted]


def environment(options, fmt, image_program, nbd_program, folder):
    """The variables that the tests' own `check` sets."""
    tests = options.tests
    env = dict(os.environ)
    io = "--cache writeback --aio threads"
    env.update(PYTHONPATH=f"{tests}:{tests.parents[1] / 'python'}", TEST_DIR=str(folder), SOCK_DIR=str(folder / "sock"),
               SAMPLE_IMG_DIR=str(tests / "sample_images"), PYTHON=sys.executable, QEMU_PROG=shutil.which("qemu-system-x86_64") or "/bin/false",
               QEMU_IMG_PROG=str(image_program), QEMU_IO_PROG=shutil.which("qemu-io") or "/bin/false", QEMU_NBD_PROG=str(nbd_program),
               QSD_PROG=shutil.which("qemu-storage-daemon") or "/bin/false", QEMU_OPTIONS="-nodefaults -display none -accel qtest",
               QEMU_IO_OPTIONS=io if fmt == "luks" else f"{io} -f {fmt}", QEMU_IO_OPTIONS_NO_FMT=io, IMGFMT=fmt, IMGPROTO=options.protocol,
               AIOMODE="threads", CACHEMODE="writeback", CACHEMODE_IS_DEFAULT="true", QEMU_DEFAULT_MACHINE="pc",
               IMGFMT_GENERIC="false" if fmt in ("bochs", "cloop", "dmg") else "true", IMGOPTSSYNTAX="true" if fmt == "luks" else "false")
    if fmt == "luks":
        env.update(IMGKEYSECRET="123456", IMGOPTS="iter-time=10")
    if fmt == "vmdk":
        env.update(IMGOPTS="zeroed_grain=on")
    return env


def reference(test, fmt):
    special = [test.with_name(f"{test.name}.out.{fmt}"), test.with_name(f"{test.name}.pc.out")]
    return next((path for path in special if path.is_file()), test.with_name(test.name + ".out"))


def run_one(options, fmt, test, program, nbd_program, label):
    """One test with one program: (verdict, detail)."""
    folder = options.work / label / fmt / test.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "sock").mkdir(parents=True)
    command = [str(test)]
    if test.open(encoding="utf-8", errors="replace").readline().rstrip() == "#!/usr/bin/env python3":
        command.insert(0, sys.executable)
    process = subprocess.Popen(command, cwd=test.parent, env=environment(options, fmt, program, nbd_program, folder), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=options.limit)
    except subprocess.TimeoutExpired:
        output = b""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    notrun = folder / (test.name + ".notrun")
    reason = notrun.read_text().strip() if notrun.exists() else ""
    if not reference(test, fmt).is_file():
        reason = "no expected output for this format"
    wanted = [] if reason else reference(test, fmt).read_text(encoding="utf-8", errors="replace").splitlines()
    got = output.decode("utf-8", errors="replace").splitlines()
    verdict = judge(process.returncode, reason, wanted, got)
    if verdict[0] == "failed":
        keep = options.keep / label / fmt
        keep.mkdir(parents=True, exist_ok=True)
        (keep / (test.name + ".diff")).write_text("\n".join(difflib.unified_diff(wanted, got, "expected", "got", lineterm="")) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    return verdict


def judge(status, reason, wanted, got):
    if reason:
        return "not applicable", reason
    if status is None or (not got and wanted):
        return "failed", "time limit or no output"
    if got == wanted and status == 0:
        return "passed", ""
    changed = sum(1 for line in difflib.unified_diff(wanted, got, n=0, lineterm="") if line[:1] in "+-" and line[:3] not in ("+++", "---"))
    return "failed", f"{changed} lines differ, status {status}"


def rows(options):
    """Every (format, test) as a dict with the verdicts."""
    jobs = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for fmt in options.formats:
            for test in candidates(options.tests, options.only):
                if needs_emulator(test):
                    continue
                own = pool.submit(run_one, options, fmt, test, options.program, options.nbd, "strata") if options.program else None
                peer = pool.submit(run_one, options, fmt, test, shutil.which("qemu-img"), shutil.which("qemu-nbd"), "peer") if options.peer else None
                jobs.append((fmt, test.name, own, peer))
        for fmt, name, own, peer in jobs:
            row = {"format": fmt, "test": name}
            for label, job in (("strata", own), ("peer", peer)):
                if job:
                    row[label], row[label + "_detail"] = job.result()
            print("# " + " ".join(str(value) for value in row.values()), file=sys.stderr, flush=True)
            yield row


def summary(found, label):
    by_test = {}
    for row in found:
        if label in row:
            by_test.setdefault(row["test"], []).append(row[label])
    run = {test: verdicts for test, verdicts in by_test.items() if any(v != "not applicable" for v in verdicts)}
    passed = [test for test, verdicts in run.items() if "failed" not in verdicts]
    pairs = [row for row in found if row.get(label) in ("passed", "failed")]
    good = [row for row in pairs if row[label] == "passed"]
    return f"{label}: {len(passed)} of {len(run)} tests pass in every format they run with; {len(good)} of {len(pairs)} (format, test) pairs"


def arguments():
    parser = argparse.ArgumentParser(description="QEMU's image tests with another qemu-img")
    parser.add_argument("--source", type=Path, help="an unpacked qemu source tree (default: fetched into --cache)")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/strata/qemu-source")
    parser.add_argument("--program", type=Path, help="the program called as qemu-img (a link named qemu-img)")
    parser.add_argument("--nbd", type=Path, default=shutil.which("qemu-nbd"), help="the program called as qemu-nbd")
    parser.add_argument("--peer", action="store_true", help="run QEMU's own qemu-img too")
    parser.add_argument("--protocol", default="file", choices=["file", "nbd"], help="how the tests reach their images; nbd: through --nbd's program")
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma separated (default: all)")
    parser.add_argument("--only", default="", help="test names, comma separated")
    parser.add_argument("--work", type=Path, default=Path("/tmp/strata-iotests"))
    parser.add_argument("--keep", type=Path, default=Path("/tmp/strata-iotests-diffs"), help="where diffs of failed tests go")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=int, default=300, help="seconds per test")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    options.formats = options.formats.split(",")
    options.only = set(filter(None, options.only.split(",")))
    if not options.program and not options.peer:
        parser.error("nothing to run: name --program or --peer")
    if options.program:
        options.program = options.program.absolute()
    if options.nbd:
        options.nbd = Path(options.nbd).absolute()
    return options


def main():
    options = arguments()
    options.cache.mkdir(parents=True, exist_ok=True)
    tree = options.source or fetch(options.cache)
    options.tests = (tree / "tests/qemu-iotests").resolve()
    found = list(rows(options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    for label in ("strata", "peer"):
        if any(label in row for row in found):
            print(summary(found, label))
    failed = any(row.get("strata") == "failed" and row.get("peer", "passed") == "passed" for row in found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
