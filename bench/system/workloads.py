# workloads: what the guest benchmark runs, as shell scripts, and the limits that each must meet.
#
# A script runs in the tree of bench_disk, with /bench holding its inputs and /tmp in memory; what it writes to standard output is its checked
# result. `guestbench` workloads time themselves, without their start. `python3` is long enough (0.4 to 0.6 s on the host) for the interpreter's work to be what
# is measured; `python3_start` runs the same program once, and is the start of the interpreter for the most part.
import collections

# peer: how many times faster than the peer at least; native: how many times slower than the host at most (None: no limit).
Limit = collections.namedtuple("Limit", "peer native")

ANY = Limit(1, None)
INTEGER = Limit(1, 2.5)
VECTOR = Limit(20, 1.5)
FLOAT = Limit(1, 1.5)
KERNEL = Limit(4, None)
JIT = Limit(1, 10)

BUILT_IN = {
    "fib": ANY, "indirect": ANY, "sieve": ANY, "qsort": ANY, "nbody": FLOAT, "sse2_matrix": VECTOR, "avx2_matrix": VECTOR, "x87": FLOAT, "memcpy": VECTOR,
    "bigcopy": FLOAT, "rep_stos": VECTOR, "chase": ANY, "syscall": ANY, "zero": ANY, "fork_exec": KERNEL, "pipe": KERNEL, "page_fault": KERNEL,
    "mprotect": KERNEL, "jit": JIT,
}

SCRIPTS = {
    "gzip": (INTEGER, "gzip -nc </bench/text"),
    "sha256sum": (INTEGER, "sha256sum" + " /bench/text" * 6),
    "7z": (INTEGER, "head -c 800000 /bench/text | 7zz a -txz -mx=5 -mmt=1 -si -so x"),
    "python3": (INTEGER, "python3 -c \"import runpy; [runpy.run_path('/bench/work.py') for _ in range(16)]\""),
    "python3_start": (ANY, "python3 /bench/work.py"),
    "gcc": (INTEGER, "gcc -O2 -S -o - /bench/program.c"),
    "sqlite3": (INTEGER, "sqlite3 :memory: </bench/work.sql"),
    "openssl_aes": (ANY, "/bench/cryptobench aes"),
    "openssl_sha": (ANY, "/bench/cryptobench sha"),
    "openssl_rsa": (ANY, "/bench/cryptobench rsa /bench/rsa.pem"),
    "luajit": (JIT, "luajit /bench/work.lua"),
}

# With two processors. The gain of the second one is WORK * seconds of the first script / seconds of the second.
PAIRED = {
    "pipe": (KERNEL, "exec /tmp/guestbench pipe"),
    "thread1": (ANY, "exec /tmp/guestbench thread1"),
    "thread2": (ANY, "exec /tmp/guestbench thread2"),
    "7z_1": (ANY, "head -c 1600000 /bench/text | 7zz a -txz -mx=5 -mmt=1 -si -so x"),
    "7z_2": (ANY, "head -c 1600000 /bench/text | 7zz a -txz -mx=5 -mmt=2 -si -so x"),
}
GAINS = {"two threads": (2, "thread1", "thread2"), "7z -mmt2": (1, "7z_1", "7z_2")}
GAIN_LIMIT = 0.9  # of the host's own gain
MEAN_LIMIT = 5.0  # geometric mean, times faster than the peer


def workloads(cpus):
    """{name: (Limit, script)} for guests with so many processors."""
    if cpus == 2:
        return dict(PAIRED)
    table = {name: (limit, f"exec /tmp/guestbench {name}") for name, limit in BUILT_IN.items()}
    table.update(SCRIPTS)
    return table
