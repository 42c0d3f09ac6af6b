# Boots: Debian's stock kernel to userland on the software CPU, in every shape; its ways to end, and their exit statuses.
import os
import re
import sys
import unittest

from strata_program import BUILD, IMAGES, run, start

ENGINE = os.environ.get("STRATA_TEST_ENGINE", "soft")
LIMIT = int(os.environ.get("STRATA_TEST_BOOT_LIMIT", "240"))


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class BootTest(unittest.TestCase):
    def boot(self, *arguments, append="quiet strata.selfcheck"):
        return run("run", "tiny", "--engine", ENGINE, "--timeout", LIMIT, "--append", append, *arguments, limit=LIMIT + 30)

    def self_check(self, *arguments):
        result = self.boot(*arguments)
        self.assertIn("self-check: passed", result.stdout, result.stdout[-3000:] + result.stderr)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def test_1_vcpu_256_mib(self):
        self.self_check("--cpus", "1", "--memory", "256M")

    def test_2_vcpus_1_gib(self):
        result = self.self_check("--cpus", "2", "--memory", "1G")
        self.assertIn("2 online", result.stdout)

    def test_4_vcpus_8_gib(self):
        result = self.self_check("--cpus", "4", "--memory", "8G")
        self.assertIn("4 online", result.stdout)

    def test_kernel_unpacked_by_the_loader_is_moved_unless_told_not_to(self):
        places = set()
        for append in ["", "", "nokaslr"]:
            result = self.boot("--kernel-entry", "decompress", append=f"quiet strata.run=grep,_text$,/proc/kallsyms {append}")
            self.assertEqual(result.returncode, 0, result.stderr)
            places.add(re.search(r"([0-9a-f]{16}) T _text", result.stdout).group(1))
        self.assertIn("ffffffff81000000", places)
        self.assertGreater(len(places), 1, "1 in about 480 rounds by chance")

    def test_kernel_unpacked_by_its_stub(self):
        self.self_check("--kernel-entry", "stub")

    def test_user_network_leases_an_address(self):
        result = self.self_check("--net", "user")
        self.assertRegex(result.stdout, r"network +eth0 10\.0\.2\.15")

    def test_reboot_boots_again_unless_told_not_to(self):
        result = self.boot("--no-reboot", append="strata.run=reboot,-f quiet")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("reset", result.stderr)

    def test_triple_fault_reboots_unless_told_not_to(self):
        append = "reboot=t strata.run=reboot,-f"
        result = self.boot("--no-reboot", append=append)
        self.assertEqual(result.returncode, 10, result.stdout[-2000:] + result.stderr)
        process = start("run", "tiny", "--engine", ENGINE, "--timeout", LIMIT, "--append", append)
        try:
            seen, boots = b"", 0
            while boots < 2 and (data := os.read(process.stdout.fileno(), 65536)):
                seen += data
                boots = seen.count(b"Linux version")
        finally:
            process.terminate()
            process.communicate(timeout=60)
        self.assertEqual(boots, 2, seen[-2000:])

    def test_guest_that_only_triple_faults_is_ended(self):
        kernel = BUILD / "tests" / "guests" / "triple_fault.bin"
        result = run("run", "--kernel", kernel, "--engine", ENGINE, "--timeout", 60, limit=90)
        self.assertEqual(result.returncode, 10, result.stderr)

    def test_panic_is_status_10(self):
        result = self.boot(append="quiet strata.crash")
        self.assertEqual(result.returncode, 10, result.stdout[-2000:] + result.stderr)

    def test_time_limit_is_status_7(self):
        result = run("run", "tiny", "--engine", ENGINE, "--timeout", "1", limit=30)
        self.assertEqual(result.returncode, 7, result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
