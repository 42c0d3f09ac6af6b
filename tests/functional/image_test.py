# Image test: what `strata image` and its link qemu-img refuse, and what they must leave alone when they do.
import hashlib
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import tarfile
import tempfile
import unittest
import xml.etree.ElementTree

from strata_program import BUILD, STRATA, environment, run, start, wait_until

MIB = 1 << 20
QEMU_IMG = BUILD / "bin" / "qemu-img"


class ImageTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def path(self, name):
        return self.folder / name

    def good(self, *arguments):
        done = run("image", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refused(self, status, word, *arguments):
        done = run("image", *arguments)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertIn(word, done.stderr)

    def link(self, *arguments, status=0):
        done = subprocess.run([str(QEMU_IMG), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, env=environment())
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout + done.stderr

    def test_link_speaks_as_the_peer(self):
        raw, disk, secret = self.path("a.raw"), self.path("a.vdi"), self.path("secret")
        secret.write_bytes(b":<;\xff")
        raw.write_bytes(b"\1" * 513)
        self.assertIn('{ "start": 0, "length": 513,', self.link("map", "--output=json", "-f", "raw", raw))
        self.assertIn('{ "start": 513, "length": 511, "depth": 0, "present": true, "zero": true, "data": false, "offset": 513}',
                      self.link("map", "--output=json", "-f", "raw", raw))
        for format, told in (("vdi", "size=1048576 static=off"), ("vmdk", "size=1048576 compat6=off hwversion=undefined"),
                             ("vhdx", "size=1048576 log_size=1048576 block_size=0")):
            self.assertIn(f"fmt={format} {told}\n", self.link("create", "-f", format, self.path(f"a.{format}"), "1M"))
        for words, told in ((["resize", disk, "2M"], "Image format driver does not support resize"),
                            (["info", "--image-opts", "driver=foo"], "Could not open 'driver=foo': Unknown driver 'foo'"),
                            (["bitmap"], "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"),
                            (["measure", "-O", "raw", "-f", "raw", "-l", "x", raw], "Failed to load snapshot: Block format 'raw' used by device '' "),
                            (["create", "-f", "vhdx", "-o", "subformat=foo", self.path("b"), "1M"], "Parameter 'subformat' does not accept value 'foo'"),
                            (["create", "-f", "qcow2", "-o", "compression_type=foo", self.path("b"), "1M"],
                             "Parameter 'compression-type' does not accept value 'foo'")):
            with self.subTest(words=words):
                self.assertIn(told, self.link(*words, status=1))
        # Of a file that was there the peer leaves nothing; here one with content stays.
        for content in (b"", b"kept"):
            image = self.path("luks")
            image.write_bytes(content)
            self.assertIn("not valid UTF-8", self.link("create", "-f", "luks", "--object", f"secret,id=s,file={secret}", "-o", "key-secret=s", image, "4M", status=1))
            self.assertEqual(image.exists(), bool(content))

    def test_image_is_never_its_own_backing_file(self):
        image, alias = self.path("self.q"), self.path("alias.q")
        self.good("create", "-f", "qcow2", image, "4M")
        os.link(image, alias)
        before = image.read_bytes()
        self.refused(2, "itself", "create", "-f", "qcow2", "-b", "self.q", "-F", "qcow2", image)
        self.refused(2, "itself", "create", "-f", "qcow2", "-b", "alias.q", "-F", "qcow2", image)
        self.assertIn("same filename as the backing file", self.link("create", "-f", "qcow2", "-b", "alias.q", "-F", "qcow2", image, status=1))
        for more in ([], ["-u"], ["--follow"]):
            self.refused(2, "itself", "rebase", "-f", "qcow2", *more, "-b", "alias.q", "-F", "qcow2", image)
        self.assertEqual(image.read_bytes(), before)
        overlay = self.path("overlay.q")
        self.good("create", "-f", "qcow2", "-b", "self.q", "-F", "qcow2", overlay)
        for more in ([], ["--follow"]):
            self.refused(2, "overlay.q", "create", "-f", "qcow2", *more, "-b", "overlay.q", "-F", "qcow2", image)
        self.refused(2, "below it", "rebase", "-f", "qcow2", "--follow", "-b", "overlay.q", "-F", "qcow2", image)
        self.assertEqual(image.read_bytes(), before)

    def test_data_file_is_where_the_command_line_says(self):
        image, data, raw = self.path("i.q"), self.path("i.data"), self.path("i.raw")
        raw.write_bytes(os.urandom(MIB))
        self.link("convert", "-O", "qcow2", "-o", f"data_file={data}", raw, image)
        self.link("amend", "-o", "data_file=gone", image)
        self.link("convert", "-O", "raw", image, self.path("o.raw"), status=1)
        tree = f"driver=qcow2,file.filename={image},data-file.filename={data}"
        self.assertIn("identical", self.link("compare", "--image-opts", tree, f"driver=raw,file.filename={raw}"))
        self.link("amend", "--image-opts", "-o", f"data_file={data}", tree)
        self.assertIn("identical", self.link("compare", image, raw))

    def test_snapshots_of_the_link_say_that_nothing_was_counted(self):
        image = self.path("i.q")
        self.link("create", "-f", "qcow2", image, "1M")
        self.link("snapshot", "-c", "a", image)
        self.assertEqual(json.loads(self.link("info", "--output=json", image))["snapshots"][0]["icount"], 0)

    def test_check_tells_of_a_snapshot_that_cannot_be_and_mends_nothing_beside_it(self):
        image = self.path("i.q")
        self.link("create", "-f", "qcow2", image, "1M")
        self.link("snapshot", "-c", "a", image)
        content = bytearray(image.read_bytes())
        table = int.from_bytes(content[64:72], "big")
        content[table:table + 8] = (0x400200).to_bytes(8, "big")
        image.write_bytes(content)
        self.assertIn("ERROR snapshot 1 (a) l1_offset=0x400200: L1 table is not cluster aligned; snapshot table entry corrupted", self.link("check", image, status=2))
        self.link("check", "-r", "all", image, status=1)
        self.refused(1, "snapshot table", "snapshot", "list", "-f", "qcow2", image)
        self.assertEqual(image.read_bytes(), bytes(content))

    def snapshots(self, image):
        return [(each["id"], each["name"]) for each in json.loads(self.good("snapshot", "list", "-f", "qcow2", image, "--json"))]

    def snapshot_maker(self):
        """An image with the snapshots (1, "2"), (2, "b"): the disk is 1 in the first, 2 in the second."""
        image = self.path("made.q")
        self.good("create", "-f", "qcow2", image, "1M")
        self.good("snapshot", "create", "-f", "qcow2", image, "2")
        self.good("resize", "-f", "qcow2", image, "2M")
        self.good("snapshot", "create", "-f", "qcow2", image, "b")
        self.good("resize", "-f", "qcow2", image, "3M")
        return image

    def size(self, image):
        return json.loads(self.link("info", "--output=json", image))["virtual-size"] // MIB

    def test_snapshots_are_named_before_ids(self):
        made = self.snapshot_maker()
        self.assertEqual(self.snapshots(made), [("1", "2"), ("2", "b")])
        image = self.path("disk.q")
        for program, size in (("strata", 1), ("link", 2)):
            shutil.copy(made, image)
            if program == "strata":
                self.good("snapshot", "apply", "-f", "qcow2", image, "2")
            else:
                self.link("snapshot", "-a", "2", image)
            self.assertEqual(self.size(image), size, program)
        self.good("convert", "-f", "qcow2", "-l", "2", made, self.path("one.raw"))
        self.assertEqual(self.path("one.raw").stat().st_size, MIB)
        shutil.copy(made, image)
        self.assertIn("Could not delete snapshot '1': snapshot not found", self.link("snapshot", "-d", "1", image, status=1))
        self.link("snapshot", "-d", "2", image)
        self.assertEqual(self.snapshots(image), [("2", "b")])
        shutil.copy(made, image)
        self.good("snapshot", "delete", "-f", "qcow2", image, "2")
        self.good("snapshot", "delete", "-f", "qcow2", image, "2")
        self.assertEqual(self.snapshots(image), [])
        self.refused(3, "no snapshot '2'", "snapshot", "delete", "-f", "qcow2", image, "2")

    def test_passphrases_are_for_whom_they_are_said(self):
        key, raw, image = self.path("pw"), self.path("plain.raw"), self.path("x.q")
        key.write_text("secret\n")
        raw.write_bytes(os.urandom(MIB))
        self.refused(2, "--target-passphrase-file", "convert", "-f", "raw", "-O", "qcow2", "--passphrase-file", key, raw, image)
        self.assertFalse(image.exists())
        options = "encrypt.format=luks,encrypt.key-secret=secret"
        self.refused(2, "--passphrase-file", "create", "-f", "qcow2", "-o", options, image, "1M")
        self.refused(2, "--target-passphrase-file", "convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, image)
        self.assertFalse(image.exists())
        self.assertIn("--passphrase-file", next(line for line in self.good("create", "-f", "qcow2", "-o", "help", image).splitlines() if "key-secret" in line))
        self.good("convert", "-f", "raw", "-O", "qcow2", "-o", "encrypt.iter-time=10", "--target-passphrase-file", key, raw, image)
        self.good("convert", "-f", "qcow2", "--passphrase-file", key, image, self.path("back.raw"))
        self.assertEqual(self.path("back.raw").read_bytes(), raw.read_bytes())

    def test_lost_output_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([str(STRATA), "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left on device", done.stderr)
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as closed:
            done = subprocess.run([str(STRATA), "version"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (1, ""))

    def test_streams_are_written_in_order(self):
        raw = self.path("disk.raw")
        raw.write_bytes(os.urandom(8 * MIB) + bytes(4 * MIB) + os.urandom(3 * MIB))
        self.good("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, self.path("a.vmdk"))
        self.link("convert", "-W", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, self.path("b.vmdk"))
        for name in ("a.vmdk", "b.vmdk"):
            self.good("compare", "-f", "raw", "-F", "vmdk", raw, self.path(name))

    def test_target_survives_a_refusal(self):
        raw, target = self.path("disk.raw"), self.path("precious")
        raw.write_bytes(bytes(MIB))
        target.write_text("precious")
        for options in (["-O", "raw"], ["-O", "vdi"], ["-O", "vmdk"], ["-O", "qcow2", "-o", "data_file=d"]):
            self.refused(9, "cannot be compressed", "convert", "-c", "-f", "raw", *options, raw, target)
        self.assertIn("Compression not supported for this file format", self.link("convert", "-c", "-f", "raw", "-O", "raw", raw, target, status=1))
        self.assertEqual(target.read_text(), "precious")

    def test_dd_copies_a_part_with_all_layers(self):
        raw = self.path("base.raw")
        raw.write_bytes(b"".join(bytes([i]) * MIB for i in range(1, 9)))
        self.good("create", self.path("top"), "8M", "--format", "qcow2", "-o", f"backing_file={raw},backing_fmt=raw")
        self.good("dd", self.path("top"), self.path("part"), "--format", "qcow2", "--follow", "--bs", "1M", "--skip", "2", "--count", "3")
        self.assertEqual(self.path("part").read_bytes(), raw.read_bytes()[2 * MIB:5 * MIB])
        self.good("dd", self.path("top"), self.path("rest"), "--format", "qcow2", "--follow", "--bs", "1M", "--skip", "7", "--count", "3")
        self.assertEqual(self.path("rest").read_bytes(), raw.read_bytes()[7 * MIB:])
        self.refused(2, "sectors", "dd", self.path("top"), self.path("none"), "--format", "qcow2", "--follow", "--bs", "100")

    def test_appliances_go_out_and_come_in(self):
        raw = self.path("disk.raw")
        raw.write_bytes(b"".join(bytes([i % 5]) * (MIB // 4) for i in range(40)))
        ova = self.path("machine.ova")
        self.good("convert", raw, ova, "--format", "raw", "-O", "ova", "-o", "cpus=2,memory=2G")
        self.good("check", ova, "--format", "ova")
        self.good("convert", ova, self.path("back.raw"), "--format", "ova")
        self.assertEqual(self.path("back.raw").read_bytes(), raw.read_bytes())
        # tar(1), a hash and an XML reader of others say the same.
        with tarfile.open(ova) as archive:
            names = archive.getnames()
            self.assertEqual(names, ["machine.ovf", "machine.mf", "machine-disk1.vmdk"])
            contents = {name: archive.extractfile(name).read() for name in names}
        self.path("machine-disk1.vmdk").write_bytes(contents["machine-disk1.vmdk"])
        for line in contents["machine.mf"].decode().splitlines():
            name, digest = line.removeprefix("SHA256(").split(")= ")
            self.assertEqual(hashlib.sha256(contents[name]).hexdigest(), digest)
        file = xml.etree.ElementTree.fromstring(contents["machine.ovf"]).find(".//{*}File")
        size = file.get("{http://schemas.dmtf.org/ovf/envelope/1}size")
        self.assertEqual(int(size), len(contents["machine-disk1.vmdk"]))
        if shutil.which("qemu-img"):
            subprocess.run(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", self.path("machine-disk1.vmdk"), raw], check=True, stdout=subprocess.DEVNULL)

    def test_exports_of_xenserver_go_out_and_come_in(self):
        raw, size = self.path("disk.raw"), 9 * MIB + 4096
        content = bytearray(size)
        content[3 * MIB:5 * MIB + 17] = os.urandom(2 * MIB + 17)
        raw.write_bytes(content)
        for kind, ending, sums in (("sha1", ".checksum", ["sha1sum"]), ("xxhash", ".xxhash", ["xxhsum", "-H64"])):
            export = self.path(f"{kind}.xva")
            self.good("convert", raw, export, "--format", "raw", "-O", "xva", "-o", f"cpus=2,memory=2G,name=machine,checksum={kind}")
            self.good("check", export, "--format", "xva")
            self.good("compare", raw, export, "-f", "raw", "-F", "xva")
            with tarfile.open(export) as archive:
                names = archive.getnames()
                blocks = [f"Ref:3/{i:08}" for i in (0, 3, 4, 5, 9)]
                self.assertEqual(names, ["ova.xml"] + [name for block in blocks for name in (block, block + ending)])
                document = xml.etree.ElementTree.fromstring(archive.extractfile("ova.xml").read())
                for block in blocks:
                    data, number = archive.extractfile(block).read(), int(block[-8:])
                    self.assertEqual(data, bytes(content[number * MIB:(number + 1) * MIB]))
                    if shutil.which(sums[0]):
                        said = subprocess.run(sums, input=data, capture_output=True, check=True).stdout.split()[0].decode()
                        self.assertEqual(archive.extractfile(block + ending).read().decode().lower(), said)
            kinds = [value.text for member in document.iter("member") if member.find("name").text == "class" for value in member.iter("value")]
            self.assertEqual(kinds, ["VM", "VBD", "VDI", "SR"])
        self.refused(1, "not written to its end", "info", self.cut(export), "-f", "xva")

    def cut(self, export):
        """As a writer that was killed leaves it."""
        half = bytearray(export.read_bytes()[:4 * MIB])
        name = b"unfinished/ova.xml"
        half[:100] = name + bytes(100 - len(name))
        half[148:156] = b" " * 8
        half[148:156] = f"{sum(half[:512]):06o}\0 ".encode()
        path = self.path("half.xva")
        path.write_bytes(half)
        return path

    def test_sesparse_extents_are_read(self):
        grain, span = 4096, 4096 * 4096
        header = [0xCAFEBABE, 0x0000000200000001, 2 * span // 512, 8, 64, 0, 0, 0, 0, 0, 1, 1, 2, 1, 3, 1, 8, 1, 64, 128, 9, 1, 10, 1, 256, 64]
        directory = [0x1000000000000001, 0x1000000000000000]
        tables = [[0] * 4096, [0] * 4096]
        tables[1][0], tables[1][1], tables[1][2] = 3 << 60 | 2 << 48, 2 << 60, 1 << 60
        tables[0][4095] = 3 << 60 | 1 << 48
        words = lambda values: struct.pack(f"<{len(values)}Q", *values)
        file = bytearray(256 * 512 + 3 * grain)
        for at, part in ((0, words(header)), (512, words([0xCAFECAFE, 0, 0, 0])), (8 * 512, words(directory)),
                         (64 * 512, words(tables[0]) + words(tables[1])), (256 * 512 + grain, b"1" * grain + b"2" * grain)):
            file[at:at + len(part)] = part
        self.path("disk-sesparse.vmdk").write_bytes(file)
        self.path("disk.vmdk").write_text(f"""# Disk DescriptorFile
version=4
CID=12345678
parentCID=ffffffff
createType="seSparse"
RW {2 * span // 512} SESPARSE "disk-sesparse.vmdk"
ddb.adapterType = "lsilogic"
""")
        self.good("convert", self.path("disk.vmdk"), self.path("out.raw"), "--format", "vmdk", "--follow")
        wanted = bytearray(2 * span)
        wanted[:grain], wanted[2 * span - grain:] = b"2" * grain, b"1" * grain
        self.assertEqual(self.path("out.raw").read_bytes(), wanted)
        if shutil.which("qemu-img"):
            subprocess.run(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", self.path("disk.vmdk"), self.path("out.raw")], check=True, stdout=subprocess.DEVNULL)
        for at, part in ((8 * 512, words([0x1000000000000002])), (64 * 512 + 4096 * 8, words([4 << 60])), (64 * 512 + 4096 * 8, words([3 << 60 | 3 << 48])),
                         (512 + 24, words([1])), (16 * 8, words([1 << 60])), (2 * 8, words([1 << 30]))):
            broken = bytearray(file)
            broken[at:at + len(part)] = part
            self.path("disk-sesparse.vmdk").write_bytes(broken)
            self.assertNotEqual(run("image", "convert", self.path("disk.vmdk"), self.path("bad.raw"), "--format", "vmdk", "--follow").returncode, 0, at)

    def test_progress_is_told_on_request(self):
        raw, target = self.path("a.raw"), self.path("b.raw")
        raw.write_bytes(os.urandom(8 * MIB))
        line = r"^ {4}\(\d+\.\d\d/100%\)$"
        peers = ["convert", "-r", "4M", "-f", "raw", "-O", "raw", raw, target]
        ours = ["image", "convert", "--speed", "4M", "-f", "raw", "-O", "raw", raw, target]
        for program, words, wanted in ((QEMU_IMG, peers, line), (QEMU_IMG, [*peers, "-p", "-q"], line), (QEMU_IMG, [*peers, "-p"], None),
                                       (STRATA, ours, r"^convert: +\d+\.\d%  .* of 8 MiB  .*/s$"), (STRATA, [*ours, "-q"], r"^convert: ")):
            with self.subTest(words=words):
                with subprocess.Popen([str(program), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as copy:
                    try:
                        self.assertTrue(wait_until(lambda: target.exists() and target.stat().st_blocks))
                        copy.send_signal(signal.SIGUSR1)
                        if wanted:
                            self.assertRegex(copy.stderr.readline().rstrip("\n"), wanted)
                        out, err = copy.communicate(timeout=30)
                    finally:
                        copy.kill()
                self.assertEqual((copy.returncode, err if program == QEMU_IMG else ""), (0, ""))
                self.assertEqual("(100.00/100%)" in out, wanted is None)
                self.assertEqual(raw.read_bytes(), target.read_bytes())
                target.unlink()

    def test_signals_for_progress_end_nothing(self):
        raw = self.path("a.raw")
        raw.write_bytes(bytes(MIB))
        with subprocess.Popen([str(QEMU_IMG), "bench", "-c", "2000000", "-f", "raw", str(raw)], stdout=subprocess.DEVNULL) as bench:
            status, blocked = pathlib.Path(f"/proc/{bench.pid}/status"), 1 << (signal.SIGUSR1 - 1)
            try:
                self.assertTrue(wait_until(lambda: int(status.read_text().split("SigBlk:")[1].split()[0], 16) & blocked))
                bench.send_signal(signal.SIGUSR1)
                with self.assertRaises(subprocess.TimeoutExpired):
                    bench.wait(timeout=0.5)
            finally:
                bench.kill()

    def test_vmdk_extents_are_told_without_opening_them(self):
        disk = self.path("disk.vmdk")
        self.good("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", disk, "1M")
        self.path("disk-flat.vmdk").unlink()
        told = json.loads(self.good("info", "-f", "vmdk", "--json", disk))
        self.assertEqual(told["details"]["extents"], [{"filename": "disk-flat.vmdk", "format": "FLAT", "virtual-size": MIB}])
        self.refused(6, "names an extent", "map", "-f", "vmdk", disk)

    def test_vmdk_extents_are_told_as_by_the_peer(self):
        raw, disk = self.path("a.raw"), self.path("a.vmdk")
        raw.write_bytes(os.urandom(MIB))
        sparse = {"virtual-size": MIB, "cluster-size": 65536}
        for kind, name, wanted in (("monolithicSparse", disk, {**sparse, "format": ""}),
                                   ("streamOptimized", disk, {**sparse, "format": "", "compressed": True}),
                                   ("twoGbMaxExtentSparse", self.path("a-s001.vmdk"), {**sparse, "format": "SPARSE"}),
                                   ("monolithicFlat", self.path("a-flat.vmdk"), {"virtual-size": MIB, "format": "FLAT"})):
            with self.subTest(kind=kind):
                self.link("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", raw, disk)
                text = self.link("info", "--output=json", disk)
                self.assertEqual(json.loads(text)["format-specific"]["data"]["extents"], [{"filename": str(name), **wanted}])
                if shutil.which("qemu-img"):
                    for output in ("json", "human"):
                        peer = subprocess.run(["qemu-img", "info", f"--output={output}", str(disk)], capture_output=True, text=True, check=True)
                        self.assertEqual(self.link("info", f"--output={output}", disk), peer.stdout)

    def test_ports(self):
        raw = self.path("disk.raw")
        raw.write_bytes(bytes(MIB))
        for port in ("99999", "65536", "-1", "x", ""):
            self.refused(2, "0 to 65535", "serve", "-f", "raw", f"--port={port}", raw)
        server = start("image", "serve", "-f", "raw", "-t", "-r", "-p", "0", "--json", raw)
        try:
            text = b""
            while b"]" not in text:
                line = server.stdout.readline()
                self.assertTrue(line)
                text += line
            uri = json.loads(text)[0]["uri"]
            self.assertNotIn(":0", uri)
            self.good("compare", "-f", "raw", "-F", "raw", raw, uri)
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)

    def test_backing_chains_need_follow(self):
        (self.path("secret.raw")).write_bytes(b"secret" * 1000)
        self.good("create", "-f", "qcow2", self.path("mal.q"), "1M")
        self.good("rebase", "-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", self.path("mal.q"))
        self.good("create", "-f", "qcow2", "-b", "mal.q", "-F", "qcow2", self.path("top.q"))  # gone.raw is not looked for
        self.refused(3, "gone.raw", "create", "-f", "qcow2", "--follow", "-b", "mal.q", "-F", "qcow2", self.path("top2.q"))
        self.assertFalse(self.path("top2.q").exists())
        self.good("create", "-f", "qcow2", self.path("plain.q"), "1M")
        self.refused(6, "", "rebase", "-f", "qcow2", "-b", "mal.q", "-F", "qcow2", self.path("plain.q"))


if __name__ == "__main__":
    unittest.main()
