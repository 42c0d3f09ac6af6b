# bench_disk: Debian trees with real programs, as a folder (for native runs) and as a disk (for guests), made once; the guest benchmark's by default.
#
# A tree is made of a Recipe, from Debian 12's packages by mmdebstrap and kept in ~/.cache/strata-bench/KEY, KEY being a hash of everything that goes in but the packages'
# versions; removing the folder makes a new one with today's packages. Beside tree and disk lie Debian's kernel and the modules a guest needs to mount
# the disk, in the order to load them. Works with and without root.
import collections
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

PACKAGES = "gzip,coreutils,7zip,python3-minimal,libpython3-stdlib,gcc,libc6-dev,sqlite3,openssl,libssl-dev,luajit"
MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "crc16", "crc32c_generic", "libcrc32c",
           "mbcache", "jbd2", "ext4"]
HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(HERE, "..", "guest", "programs")
CRYPTOBENCH = os.path.join(HERE, "..", "guest", "cryptobench.c")
DISK_BYTES = 1 << 30

# Run by mmdebstrap on the finished tree, $1: the inputs, and the programs that are compiled against the tree's own libraries.
HOOK = """set -e
mkdir -p "$1/bench"
cp SOURCES "$1/bench"
chroot "$1" python3 /bench/inputs.py /bench
chroot "$1" gcc -O2 -o /bench/cryptobench /bench/cryptobench.c -lcrypto
chroot "$1" openssl genrsa -out /bench/rsa.pem 2048 2>/dev/null
chmod 644 "$1/bench/rsa.pem"
rm -rf "$1/usr/share/doc" "$1/usr/share/man" "$1/usr/share/locale" "$1/var/cache/apt"/*.bin
"""


# packages: names with commas; hook: shell commands run on the finished tree $1, SOURCES standing for the files `sources`; disk_bytes: the disk's size.
Recipe = collections.namedtuple("Recipe", "packages hook sources disk_bytes")
BENCH = Recipe(PACKAGES, HOOK, sorted(glob.glob(PROGRAMS + "/*")) + [CRYPTOBENCH], DISK_BYTES)


def key(recipe):
    """A name for what the disk is made of."""
    digest = hashlib.sha256((recipe.packages + " ".join(MODULES) + recipe.hook + str(recipe.disk_bytes)).encode())
    for path in recipe.sources:
        with open(path, "rb") as source:
            digest.update(path.rsplit("/", 1)[1].encode() + source.read())
    return digest.hexdigest()[:12]


def package_sources():
    """The host's own Debian 12 package sources."""
    listed = subprocess.run(["apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
                            capture_output=True, text=True, check=True).stdout
    lines = {line for line in listed.splitlines() if line.split()[2:] in (["bookworm", "main"], ["bookworm-updates", "main"], ["bookworm-security", "main"])}
    if not lines:
        sys.exit("bench_disk: apt knows no source of Debian 12 packages: run apt-get update")
    return sorted(lines)


def make_tree(folder, recipe):
    """mmdebstrap into folder/root; a user without rights gets it by way of an archive."""
    root, hook = os.path.join(folder, "root"), os.path.join(folder, "hook.sh")
    with open(hook, "w", encoding="ascii") as script:
        script.write(recipe.hook.replace("SOURCES", " ".join(f"'{path}'" for path in recipe.sources)))
    mode = "root" if os.geteuid() == 0 else "unshare"
    target = root if mode == "root" else root + ".tar"
    command = ["mmdebstrap", "--quiet", f"--mode={mode}", "--variant=apt", f"--include={recipe.packages}", f"--customize-hook=sh {hook} \"$1\"", "bookworm", target]
    subprocess.run(command + package_sources(), check=True)
    if mode == "unshare":
        os.mkdir(root)
        subprocess.run(["tar", "-C", root, "--exclude=./dev/*", "--no-same-owner", "-xf", target], check=True)
        os.remove(target)
    os.remove(hook)


def fetch_kernel(folder):
    """Debian's kernel package: folder/vmlinuz, folder/modules/NN-NAME.ko."""
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", "linux-image-amd64"], capture_output=True, text=True, check=True).stdout
    package = next(word.rstrip(",") for line in shown.splitlines() if line.startswith("Depends:") for word in line.split() if word.startswith("linux-image-"))
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], cwd=work, check=True)
        subprocess.run(["dpkg-deb", "-x", glob.glob(work + "/*.deb")[0], work + "/x"], check=True)
        shutil.copy(glob.glob(work + "/x/boot/vmlinuz-*")[0], folder + "/vmlinuz")
        os.mkdir(folder + "/modules")
        for number, name in enumerate(MODULES):
            found = glob.glob(f"{work}/x/lib/modules/*/kernel/**/{name}.ko", recursive=True)
            if found:
                shutil.copy(found[0], f"{folder}/modules/{number:02}-{name}.ko")


def make_disk(folder, recipe):
    """The tree as an ext4 disk."""
    disk = folder + "/disk.ext4"
    with open(disk, "wb") as out:
        out.truncate(recipe.disk_bytes)
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder + "/root", disk], check=True, env=environment)


def bench_disk(recipe=BENCH):
    """The folder with root/, disk.ext4, vmlinuz and modules/; made now if it is not there yet."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "strata-bench")
    done = os.path.join(cache, key(recipe))
    if not os.path.isdir(done):
        print(f"bench_disk: making {done} (a few minutes, once)", file=sys.stderr)
        work = f"{done}.{os.getpid()}"
        os.makedirs(work)
        os.chmod(work, 0o755)
        make_tree(work, recipe)
        fetch_kernel(work)
        make_disk(work, recipe)
        os.rename(work, done)
    return done


if __name__ == "__main__":
    print(bench_disk())
