# NBD tests: strata image serve and the qemu-nbd personality with QEMU's and libnbd's clients, NBD exports as images of strata
# image and the qemu-img personality with QEMU's server and nbdkit. A test whose peer is not installed is skipped.
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import strata_program as strata

QEMU_NBD, QEMU_IMG = strata.BUILD / "bin" / "qemu-nbd", strata.BUILD / "bin" / "qemu-img"
SIZE = 8 << 20


def tool(name):
    found = shutil.which(name)
    if found is None:
        raise unittest.SkipTest(f"no {name} here: tools/setup.sh test")
    return found


def wait_for(path, process):
    deadline = time.monotonic() + 20
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the server does not listen: {process.stderr.read() if process.stderr else ''}")
        time.sleep(0.02)


class Base(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nbd"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.socket = self.folder / "s"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.raw = self.folder / "disk.raw"
        content = bytearray(SIZE)
        content[1 << 20:2 << 20] = random.Random(4).randbytes(1 << 20)
        content[5 << 20:(5 << 20) + 4096] = b"x" * 4096
        with self.raw.open("wb") as out:  # with holes
            out.truncate(SIZE)
            for start in (1 << 20, 5 << 20):
                out.seek(start)
                out.write(content[start:start + (1 << 20)].rstrip(b"\0"))
        self.content = bytes(content)

    def server(self, *command, socket=None):
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.end, process)
        wait_for(socket or self.socket, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.terminate()
        status = process.wait(20)
        process.stderr.close()
        return status

    def run_tool(self, *command, status=0):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=60, check=False)
        self.assertEqual(done.returncode, status, f"{command}\n{done.stdout}{done.stderr}")
        return done.stdout


class NbdServerTest(Base):
    def serve(self, *options):
        return self.server(strata.STRATA, "image", "serve", "-f", "raw", "-k", self.socket, "-t", *options, self.raw)

    def test_nbdinfo_sees_what_is_offered(self):
        self.serve("--export", "disk", "-D", "words")
        text = self.run_tool(tool("nbdinfo"), f"nbd+unix:///disk?socket={self.socket}")
        for part in ("structured packets", f"export-size: {SIZE}", "base:allocation", "qemu:allocation-depth", "can_multi_conn: true",
                     "can_fast_zero: true", "can_df: true", "is_read_only: false"):
            self.assertIn(part, text)
        self.assertIn("description: words", self.run_tool(tool("nbdinfo"), "--list", self.uri))
        self.run_tool(tool("nbdinfo"), self.uri, status=1)

    def test_nbdcopy_reads_and_writes_over_four_connections(self):
        server = self.serve("-e", "8")
        copy = self.folder / "copy"
        self.run_tool(tool("nbdcopy"), self.uri, copy)
        self.assertEqual(copy.read_bytes(), self.content)
        changed = random.Random(5).randbytes(SIZE)
        copy.write_bytes(changed)
        self.run_tool(tool("nbdcopy"), "--flush", copy, self.uri)
        self.assertEqual(self.end(server), 0)
        self.assertEqual(self.raw.read_bytes(), changed)
        self.assertFalse(self.socket.exists())

    def test_map_of_holes(self):
        self.serve("-r")
        text = self.run_tool(tool("qemu-img"), "map", "--output=json", "-f", "raw", self.uri)
        self.assertEqual(text.count('"zero": true, "data": false'), 3, text)

    def test_qemu_io_does_everything(self):
        self.serve("--cache", "none")
        self.run_tool(tool("qemu-io"), "-f", "raw", "-c", "write -P 7 1k 70k", "-c", "write -z 20k 3k", "-c", "write -z -u 2M 1M", "-c", "discard 3M 1M",
                      "-c", "write -f -P 9 4M 512", "-c", "flush", "-c", "read -P 7 1k 19k", "-c", "read -P 0 20k 3k", "-c", "read -P 9 4M 512", self.uri)
        data = self.raw.read_bytes()
        self.assertEqual(data[1024:20480], b"\7" * 19456)
        self.assertEqual(data[20480:23552], bytes(3072))

    def test_read_only_refuses_writes(self):
        self.serve("-r")
        done = subprocess.run([tool("qemu-io"), "-f", "raw", "-c", "write 0 512", self.uri], capture_output=True, text=True, timeout=60, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(self.raw.read_bytes(), self.content)

    def test_server_of_qcow2_ends_cleanly_after_its_client(self):
        image = self.folder / "disk.qcow2"
        self.run_tool(QEMU_IMG, "create", "-q", "-f", "qcow2", image, SIZE)
        server = self.server(strata.STRATA, "image", "serve", "-f", "qcow2", "-k", self.socket, image)
        self.run_tool(tool("qemu-img"), "convert", "-n", "-f", "raw", "-O", "raw", self.raw, self.uri)
        self.assertEqual(server.wait(20), 0)
        self.run_tool(tool("qemu-img"), "check", image)
        self.run_tool(tool("qemu-img"), "compare", self.raw, "-f", "raw", "-F", "qcow2", image)

    def test_sigterm_under_load_loses_no_flushed_write(self):
        server = self.serve("-e", "4")
        bench = subprocess.Popen([tool("qemu-img"), "bench", "-w", "-f", "raw", "-c", "2000000", "-d", "16", "-S", "4096", "-s", "4096", self.uri],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        self.assertEqual(self.end(server), 0)
        bench.wait(30)

    def test_too_many_clients_wait(self):
        self.serve("-e", "1")
        first = subprocess.Popen([tool("nbdinfo"), "--size", self.uri], stdout=subprocess.PIPE, text=True)
        second = subprocess.Popen([tool("nbdinfo"), "--size", self.uri], stdout=subprocess.PIPE, text=True)
        for each in (first, second):
            self.assertEqual(each.communicate(timeout=30)[0].strip(), str(SIZE))


class NbdClientTest(Base):
    def peer(self, *options):
        return self.server(tool("qemu-nbd"), "-t", "-e", "8", "-k", self.socket, *options)

    def test_images_of_qemus_server_are_read_and_written(self):
        self.peer("-f", "raw", self.raw)
        copy = self.folder / "copy.qcow2"
        self.run_tool(strata.STRATA, "image", "convert", "-f", "raw", "-O", "qcow2", self.uri, copy)
        self.run_tool(tool("qemu-img"), "compare", "-f", "qcow2", "-F", "raw", copy, self.raw)
        self.run_tool(QEMU_IMG, "compare", "-f", "raw", "-F", "qcow2", self.uri, copy)
        changed = self.folder / "changed.raw"
        changed.write_bytes(random.Random(6).randbytes(SIZE))
        self.run_tool(QEMU_IMG, "convert", "-n", "-f", "raw", "-O", "raw", changed, self.uri)
        self.run_tool(QEMU_IMG, "compare", "-f", "raw", "-F", "raw", self.uri, changed)
        self.assertEqual(self.raw.read_bytes(), changed.read_bytes())

    def test_map_is_the_peers(self):
        self.peer("-r", "-f", "raw", self.raw)
        for form in ([self.uri], ["--image-opts", f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self.socket}"],
                     ["json:{'driver':'raw','file':{'driver':'nbd','server':{'type':'unix','path':'%s'}}}" % self.socket], [f"nbd:unix:{self.socket}"]):
            own = self.run_tool(QEMU_IMG, "map", "--output=json", *form)
            self.assertEqual(own, self.run_tool(tool("qemu-img"), "map", "--output=json", *form))

    def test_qcow2_over_nbd_is_found(self):
        image = self.folder / "disk.qcow2"
        self.run_tool(tool("qemu-img"), "convert", "-f", "raw", "-O", "qcow2", self.raw, image)
        self.peer("-f", "raw", image)
        self.assertIn("file format: qcow2", self.run_tool(QEMU_IMG, "info", self.uri))
        self.run_tool(QEMU_IMG, "compare", "-F", "raw", self.uri, self.raw)

    def test_nbdkits_blocks_are_heeded(self):
        socket = self.folder / "k"
        self.server(tool("nbdkit"), "-f", "-U", socket, "--filter=blocksize-policy", "file", self.raw, "blocksize-minimum=4096",
                    "blocksize-preferred=4096", "blocksize-maximum=64k", "blocksize-error-policy=error", socket=socket)
        changed = self.folder / "changed.raw"
        changed.write_bytes(random.Random(7).randbytes(SIZE))
        self.run_tool(QEMU_IMG, "convert", "-n", "-f", "raw", "-O", "raw", changed, f"nbd+unix://?socket={socket}")
        self.run_tool(QEMU_IMG, "dd", "bs=512", "count=8", "skip=5", "-f", "raw", "-O", "raw", f"if=nbd+unix://?socket={socket}", f"of={self.folder / 'part'}")
        self.assertEqual((self.folder / "part").read_bytes()[:1536], changed.read_bytes()[2560:4096])

    def test_servers_errors_are_told(self):
        socket = self.folder / "k"
        self.server(tool("nbdkit"), "-f", "-U", socket, "--filter=error", "file", self.raw, "error-pread=EIO", "error-pread-rate=100%", socket=socket)
        done = subprocess.run([str(QEMU_IMG), "convert", "-f", "raw", "-O", "raw", f"nbd+unix://?socket={socket}", str(self.folder / "copy")],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Input/output error", done.stderr)

    def test_server_that_is_killed_and_comes_back(self):
        server = self.peer("-f", "raw", self.raw)
        copy = self.folder / "copy"
        opts = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self.socket},file.reconnect-delay=30"
        process = subprocess.Popen([str(QEMU_IMG), "convert", "-r", "2M", "--image-opts", "-O", "raw", opts, str(copy)], stderr=subprocess.PIPE, text=True)
        time.sleep(1.0)
        server.send_signal(signal.SIGKILL)
        server.wait()
        self.socket.unlink(missing_ok=True)
        time.sleep(0.5)
        self.peer("-f", "raw", self.raw)
        self.assertEqual(process.wait(60), 0, process.stderr.read())
        process.stderr.close()
        self.assertEqual(copy.read_bytes(), self.content)

    def test_server_that_is_not_there_yet(self):
        opts = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self.socket},file.open-timeout=20"
        process = subprocess.Popen([str(QEMU_IMG), "info", "--image-opts", opts], stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        self.peer("-f", "raw", self.raw)
        self.assertIn("file format: raw", process.communicate(timeout=30)[0])

    def test_nobody_there_is_said(self):
        done = subprocess.run([str(QEMU_IMG), "info", f"nbd+unix://?socket={self.socket}"], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"Failed to connect to '{self.socket}'", done.stderr)


class QemuNbdTest(Base):
    def test_fork_pid_file_and_list(self):
        pid = self.folder / "pid"
        with (self.folder / "errors").open("w") as errors:  # the server keeps it
            subprocess.run([str(QEMU_NBD), "--fork", "-t", "--pid-file", str(pid), "-k", str(self.socket), "-f", "raw", "-x", "disk", "-D", "words", "-r", "-A",
                            str(self.raw)], stdout=subprocess.DEVNULL, stderr=errors, timeout=60, check=True)
        own = self.run_tool(QEMU_NBD, "-L", "-k", self.socket)
        self.assertEqual(own, self.run_tool(tool("qemu-nbd"), "-L", "-k", self.socket))
        self.assertIn("flags: 0x48f ( readonly flush fua df cache )", own)
        os.kill(int(pid.read_text()), signal.SIGTERM)
        deadline = time.monotonic() + 20
        while self.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertFalse(self.socket.exists())

    def test_list_is_the_peers(self):
        for options in ([], ["-r"], ["-e", "3"], ["-A", "-x", "name"]):
            seen = []
            for program in (QEMU_NBD, tool("qemu-nbd")):
                server = self.server(program, "-t", "-k", self.socket, "-f", "raw", *options, self.raw)
                seen.append(self.run_tool(tool("qemu-nbd"), "-L", "-k", self.socket))
                self.end(server)
            self.assertEqual(seen[0], seen[1])

    def test_offset_and_temporary_writes(self):
        self.server(QEMU_NBD, "-t", "-k", self.socket, "-f", "raw", "-o", 1 << 20, "-s", self.raw)
        self.run_tool(tool("qemu-io"), "-f", "raw", "-c", "write -P 5 0 4096", "-c", "read -P 5 0 4096", self.uri)
        self.assertEqual(self.run_tool(tool("nbdinfo"), "--size", self.uri).strip(), str(SIZE - (1 << 20)))
        self.assertEqual(self.raw.read_bytes(), self.content)

    def test_failures_of_the_forked_server_are_told(self):
        done = subprocess.run([str(QEMU_NBD), "--fork", "-k", str(self.socket), "-f", "raw", str(self.folder / "none")], capture_output=True, text=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No such file or directory", done.stderr)

    def test_bitmaps(self):
        image = self.folder / "disk.qcow2"
        self.run_tool(tool("qemu-img"), "create", "-q", "-f", "qcow2", image, SIZE)
        self.run_tool(tool("qemu-img"), "bitmap", "--add", "-f", "qcow2", image, "b0")
        self.run_tool(tool("qemu-io"), "-f", "qcow2", "-c", "write 1M 64k", image)
        self.run_tool(tool("qemu-img"), "bitmap", "--disable", "-f", "qcow2", image, "b0")
        seen = []
        if "b0" not in self.run_tool(QEMU_IMG, "info", image):
            self.skipTest("bitmaps of qcow2 are not read here")
        for program in (QEMU_NBD, tool("qemu-nbd")):
            server = self.server(program, "-t", "-r", "-k", self.socket, "-f", "qcow2", "-B", "b0", image)
            seen.append(self.run_tool(tool("nbdinfo"), "--map=qemu:dirty-bitmap:b0", self.uri))
            self.end(server)
        self.assertEqual(seen[0], seen[1])


class NbdTlsTest(Base):
    def credentials(self):
        """A folder with an authority, a server's certificate for localhost and a client's."""
        openssl = tool("openssl")
        folder = self.folder / "tls"
        folder.mkdir()
        self.run_tool(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority", "-keyout", folder / "ca-key.pem",
                      "-out", folder / "ca-cert.pem")
        for who, names in (("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")):
            (folder / "extensions").write_text(names + "\n")
            self.run_tool(openssl, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/O=tests/CN={who}", "-keyout", folder / f"{who}-key.pem",
                          "-out", folder / f"{who}.csr")
            self.run_tool(openssl, "x509", "-req", "-days", "2", "-in", folder / f"{who}.csr", "-CA", folder / "ca-cert.pem", "-CAkey", folder / "ca-key.pem",
                          "-CAcreateserial", "-extfile", folder / "extensions", "-out", folder / f"{who}-cert.pem")
        return folder

    def test_certificates_both_ways(self):
        folder = self.credentials()
        client = f"tls-creds-x509,id=t,endpoint=client,dir={folder}"
        opts = f"driver=nbd,server.type=unix,server.path={self.socket},tls-creds=t,tls-hostname=localhost"
        for server, reader in ((QEMU_NBD, tool("qemu-img")), (tool("qemu-nbd"), QEMU_IMG), (QEMU_NBD, QEMU_IMG)):
            process = self.server(server, "-t", "-k", self.socket, "-f", "raw", "--object", f"tls-creds-x509,id=t,endpoint=server,dir={folder},verify-peer=yes",
                                  "--tls-creds", "t", self.raw)
            copy = self.folder / "copy"
            self.run_tool(reader, "convert", "--object", client, "--image-opts", "-O", "raw", opts, copy)
            self.assertEqual(copy.read_bytes(), self.content)
            self.run_tool(reader, "info", f"nbd:unix:{self.socket}", status=1)  # not without TLS
            self.run_tool(reader, "info", "--object", client, "--image-opts", opts.replace("localhost", "elsewhere"), status=1)
            self.end(process)

    def test_keys_both_ways(self):
        (self.folder / "keys.psk").write_text("alice:" + "5a" * 32 + "\n")
        client = f"tls-creds-psk,id=t,endpoint=client,dir={self.folder},username=alice"
        opts = f"driver=nbd,server.type=unix,server.path={self.socket},tls-creds=t"
        for server, reader in ((QEMU_NBD, tool("qemu-img")), (tool("qemu-nbd"), QEMU_IMG), (QEMU_NBD, QEMU_IMG)):
            process = self.server(server, "-t", "-k", self.socket, "-f", "raw", "--object", f"tls-creds-psk,id=t,endpoint=server,dir={self.folder}",
                                  "--tls-creds", "t", self.raw)
            self.assertIn("8 MiB", self.run_tool(reader, "info", "--object", client, "--image-opts", opts))
            self.end(process)

    def test_serve_with_certificates(self):
        folder = self.credentials()
        self.server(strata.STRATA, "image", "serve", "-f", "raw", "-t", "-k", self.socket, "--tls", folder, self.raw)
        uri = f"nbds+unix:///?socket={self.socket}&tls-certificates={folder}&tls-hostname=localhost"
        copy = self.folder / "copy"
        self.run_tool(strata.STRATA, "image", "convert", "-f", "raw", "-O", "raw", uri, copy)
        self.assertEqual(copy.read_bytes(), self.content)


if __name__ == "__main__":
    unittest.main()
