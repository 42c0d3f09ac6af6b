# Strata program: what the functional tests share: running build/bin/strata, the tiny image, a terminal to run it in.
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import time

BUILD = pathlib.Path(os.environ.get("STRATA_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
STRATA = BUILD / "bin" / "strata"
IMAGES = BUILD / "images"
SKIP = 77  # CTest's SKIP_RETURN_CODE for these tests


def environment():
    return dict(os.environ, STRATA_IMAGES=str(IMAGES), NO_COLOR="1")


def run(*arguments, limit=60, **options):
    """Runs strata to its end; output as text. Standard input is empty unless given."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([str(STRATA), *map(str, arguments)], capture_output=True, text=True, errors="replace",
                          timeout=limit, env=environment(), check=False, **options)


def start(*arguments, **options):
    """Starts strata; the caller ends it."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([str(STRATA), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=environment(), **options)


def wait_until(condition, limit=15):
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def vmm_processes():
    """The ids of VMM processes of this build."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "exe") == str(BUILD / "bin" / "strata-vmm"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


class Terminal:
    """strata in a terminal of its own, driven like a person would."""

    def __init__(self, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(STRATA, [str(STRATA), *map(str, arguments)], environment())
        self.seen = ""

    def expect(self, pattern, limit):
        """Reads until `pattern` is there; answers the match. AssertionError with the last lines otherwise."""
        deadline = time.monotonic() + limit
        while True:
            match = re.search(pattern, self.seen)
            if match:
                self.seen = self.seen[match.end():]
                return match
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"no {pattern!r} within {limit} s; last: {self.seen[-800:]!r}")

    def _read(self, limit):
        ready, _, _ = select.select([self.fd], [], [], limit)
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def send(self, text):
        os.write(self.fd, text.encode())

    def is_raw(self):
        import termios
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def resize(self, columns, rows):
        import fcntl
        import struct
        import termios
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hang_up(self):
        """Closes the terminal's window."""
        os.close(self.fd)
        self.fd = -1

    def wait(self, limit=30):
        """The exit status; kills and fails after `limit`."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if self.fd >= 0:
                self._read(0.05)
            else:
                time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"strata did not end within {limit} s")
