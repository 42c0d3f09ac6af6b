# disk_rows: what disk_bench.py measures: for each row the command, what is prepared for it, and the goal.
#
# A row is a shell-like command line; {q} stands for the program under test (Strata under the name qemu-img, or the peer), {peer} for the peer, {o} for one of `variants`
# (the side's best one counts). Prepared is always by the peer, so both sides meet the same images. `goal`: how many times as fast as the peer at least.
import collections

Row = collections.namedtuple("Row", "name command prepare goal variants count repeat out")
PREPARED = ("n.q", "m.new", "m.low")
NONE = [""]
MANY = ["-W -m 16"]
EITHER = ["", "-W -m 16"]
STRIDE = {4096: 1052672, 65536: 1114112}  # another cluster each time, round the image
COUNTS = {(4096, 1): 5000, (4096, 32): 30000, (4096, 64): 30000, (65536, 1): 2000, (65536, 32): 8000, (65536, 64): 8000}


def row(name, command, prepare="", goal=1.0, variants=NONE, count=0, repeat=1, out=None):
    """`count`: requests, if the command is a `bench`, whose own clock counts; `repeat`: runs in a sample; `out`: a file whose size is told."""
    return Row(name, command, prepare, goal, variants, count, repeat, out)


def allocating():
    """Writes that give clusters to the disk."""
    write = "{q} bench -f qcow2 -w -t none -i native"
    fresh = "rm -f n.q; {peer} create -q -f qcow2 %s n.q 16G"
    over = "rm -f n.q; {peer} create -q -f qcow2 -b c4.qcow2 -F qcow2 n.q"
    rows = []
    for depth, count in ((1, 3000), (32, 16000)):
        for size in (4096, 65536):
            goal = 4.0 if (size, depth) == (4096, 32) else 1.0
            rows.append(row(f"fresh {size >> 10}k d{depth}", f"{write} -s {size} -S {STRIDE[size]} -d {depth} -c {count} n.q", fresh % "", goal, count=count))
    rows.append(row("fresh 4k d32, extended L2", f"{write} -s 4096 -S 1052672 -d 32 -c 16000 n.q", fresh % "-o cluster_size=128k,extended_l2=on", count=16000))
    for size, offset in ((4096, 4096), (65536, 0)):
        goal = 3.0 if size == 4096 else 1.0
        rows.append(row(f"COW {size >> 10}k d32 over a chain of 5", f"{write} -s {size} -o {offset} -S 1114112 -d 32 -c 4000 n.q", over, goal, count=4000))
    return rows


def in_place():
    """Reads and writes of what has its place."""
    rows = []
    for image in ("raw", "qcow2"):
        for way, word in (("read", ""), ("write", "-w")):
            for (size, depth), count in COUNTS.items():
                rows.append(row(f"{image} {size >> 10}k {way} d{depth}",
                                f"{{q}} bench -f {image} {word} -t none -i native -s {size} -S {STRIDE[size]} -d {depth} -c {count} b.{image}", count=count))
    rows.append(row("chain of 5, 4k read d32", "{q} bench -f qcow2 -t none -i native -s 4096 -S 1052672 -d 32 -c 30000 c4.qcow2", count=30000))
    return rows


def converting():
    """Whole images into others."""
    def convert(name, options, source, goal=1.0, variants=EITHER):
        return row(f"convert {name}", f"{{q}} convert {{o}} {options} {source} o.x", "rm -f o.x", goal, variants, out="o.x")
    rows = [
        convert("zlib to raw", "-f qcow2 -O raw", "z.qcow2", 3.0, MANY),
        convert("zstd to raw", "-f qcow2 -O raw", "zs.qcow2", 2.0, MANY),
        convert("raw to zlib", "-c -f raw -O qcow2", "src.raw", 2.0, MANY),
        convert("raw to zstd", "-c -o compression_type=zstd -f raw -O qcow2", "src.raw", 1.5, MANY),
        convert("raw to raw", "-f raw -O raw", "src.raw"),
        convert("raw to qcow2", "-f raw -O qcow2", "src.raw"),
        convert("raw to qcow2, extended L2", "-o cluster_size=128k,extended_l2=on -f raw -O qcow2", "src.raw"),
        convert("qcow2 to raw", "-f qcow2 -O raw", "q.qcow2"),
        convert("qcow2 to qcow2", "-f qcow2 -O qcow2", "q.qcow2"),
        convert("raw to qcow2, no cache", "-t none -T none -f raw -O qcow2", "src.raw", variants=MANY),
    ]
    for kind in ("vmdk", "vhdx", "vpc", "vdi"):
        rows.append(convert(f"raw to {kind}", f"-f raw -O {kind}", "src.raw"))
        rows.append(convert(f"{kind} to raw", f"-f {kind} -O raw", f"q.{kind}"))
    return rows


def whole_images():
    """Commands on an image of 100 GiB with 10,240 scattered clusters (m.base), and layers over it."""
    new = "cp --sparse=always m.base m.new"
    mid = "cp --sparse=always m.mid m.new"
    pre = "cp --sparse=always m.pre m.new"
    snap = "; {peer} snapshot -c s1 m.new"
    top = ("rm -f m.new m.low; cp --sparse=always m.copy m.low; {peer} create -q -f qcow2 -b m.low -F qcow2 m.new; "
           "{peer} bench -f qcow2 -w -s 65536 -S 20971520 -o 65536 -d 32 -c 5120 m.new")
    return [
        row("rebase safe, same content", "{q} rebase -b m.copy -F qcow2 m.new", mid, 10.0),
        row("rebase to none (flatten)", "{q} rebase -b '' m.new", mid, 10.0),
        row("compare raw with qcow2", "{q} compare -f raw -F qcow2 m.raw m.base", "", 10.0),
        row("compare qcow2 with its copy", "{q} compare -f qcow2 -F qcow2 m.base m.copy"),
        row("create", "{q} create -q -f qcow2 m.new 100G", "rm -f m.new", repeat=10),
        row("create, metadata preallocated", "{q} create -q -f qcow2 -o preallocation=metadata m.new 100G", "rm -f m.new"),
        row("create overlay", "{q} create -q -f qcow2 -b m.base -F qcow2 m.new", "rm -f m.new", repeat=10),
        row("info", "{q} info m.base", repeat=10),
        row("check", "{q} check m.base", repeat=3),
        row("check, 1.6 million clusters", "{q} check m.pre"),
        row("map", "{q} map --output=json m.base", repeat=3),
        row("map overlay", "{q} map --output=json m.mid", repeat=3),
        row("map, 1.6 million clusters", "{q} map --output=json m.pre", repeat=3),
        row("map raw", "{q} map --output=json -f raw m.raw", repeat=3),
        row("measure", "{q} measure -f raw -O qcow2 m.raw", repeat=3),
        row("snapshot -c", "{q} snapshot -c s1 m.new", new),
        row("snapshot -a", "{q} snapshot -a s1 m.new", new + snap),
        row("snapshot -d", "{q} snapshot -d s1 m.new", new + snap),
        row("snapshot -c, 1.6 million clusters", "{q} snapshot -c s1 m.new", pre),
        row("snapshot -d, 1.6 million clusters", "{q} snapshot -d s1 m.new", pre + snap),
        row("commit", "{q} commit m.new", top),
        row("rebase -u", "{q} rebase -u -b m.copy -F qcow2 m.new", mid),
        row("resize +100G", "{q} resize m.new +100G", new),
        row("shrink to 50G", "{q} resize --shrink m.new 50G", new),
        row("convert to raw, sparse", "{q} convert -f qcow2 -O raw m.base m.new", "rm -f m.new"),
        row("convert from raw, sparse", "{q} convert -f raw -O qcow2 m.raw m.new", "rm -f m.new"),
    ]


GROUPS = {"allocating": allocating(), "in place": in_place(), "convert": converting(), "images": whole_images()}

# Shell commands that make the images, once; {peer} is the peer, {size} the source's MiB of files. What `bench` writes is no zeros: those either side may leave out.
IMAGES = r"""
set -e
if ! [ -f src.raw ]; then
  rm -rf tree; mkdir tree; left=$(({size}*1024))
  for f in /usr/bin/* /usr/lib/x86_64-linux-gnu/* /usr/include/* /usr/share/* /usr/lib/*; do
    k=$(du -skx "$f" | cut -f1); [ "$k" -le "$left" ] && [ "$k" -le 200000 ] || continue
    d=tree$(dirname "$f"); mkdir -p "$d"; cp -a "$f" "$d/" 2>/dev/null || true; left=$((left-k)); [ "$left" -gt 4096 ] || break
  done
  truncate -s $(({size}*2))M src.tmp; mke2fs -q -F -t ext4 -d tree src.tmp; rm -rf tree; mv src.tmp src.raw
fi
[ -f q.qcow2 ] || {peer} convert -f raw -O qcow2 src.raw q.qcow2
[ -f z.qcow2 ] || {peer} convert -c -W -m 16 -f raw -O qcow2 src.raw z.qcow2
[ -f zs.qcow2 ] || {peer} convert -c -o compression_type=zstd -W -m 16 -f raw -O qcow2 src.raw zs.qcow2
for k in vmdk vhdx vpc vdi; do [ -f q.$k ] || {peer} convert -f raw -O $k src.raw q.$k; done
if ! [ -f b.qcow2 ]; then
  head -c 1G /dev/urandom >b.raw; {peer} convert -f raw -O qcow2 b.raw b.qcow2
fi
if ! [ -f c4.qcow2 ]; then
  cp b.qcow2 c0.qcow2
  for k in 1 2 3 4; do
    {peer} create -q -f qcow2 -b c$((k-1)).qcow2 -F qcow2 c$k.qcow2
    {peer} bench -f qcow2 -w --pattern=$((64+k)) -s 65536 -S 327680 -o $((k*65536)) -d 16 -c 3276 c$k.qcow2 >/dev/null
  done
fi
if ! [ -f m.mid ]; then
  rm -f m.*; {peer} create -q -f qcow2 m.base 100G
  {peer} bench -f qcow2 -w --pattern=85 -s 65536 -S 10485760 -d 32 -c 10240 m.base >/dev/null
  {peer} create -q -f qcow2 -o preallocation=metadata m.pre 100G
  truncate -s 100G m.raw; {peer} bench -f raw -w --pattern=85 -s 65536 -S 10485760 -d 32 -c 10240 m.raw >/dev/null
  cp --sparse=always m.base m.copy
  {peer} create -q -f qcow2 -b m.base -F qcow2 m.mid
  {peer} bench -f qcow2 -w --pattern=85 -s 65536 -S 20971520 -o 65536 -d 32 -c 5120 m.mid >/dev/null
fi
sync
"""
