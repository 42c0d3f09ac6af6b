# Terminal: the way in, the ways out, and the terminal's own state afterwards; signals, closed windows, dying processes.
import os
import signal
import socket
import sys
import time
import unittest

from strata_program import IMAGES, Terminal, run, start, vmm_processes, wait_until

ENGINE = os.environ.get("STRATA_TEST_ENGINE", "soft")
LIMIT = int(os.environ.get("STRATA_TEST_BOOT_LIMIT", "240"))
RUN = ("run", "tiny", "--engine", ENGINE, "--append", "quiet")


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class TerminalTest(unittest.TestCase):
    def setUp(self):
        self.before = set(vmm_processes())

    def assert_no_vmm_left(self):
        self.assertTrue(wait_until(lambda: not set(vmm_processes()) - self.before), "a VMM process is left")

    def test_shell_answers_and_poweroff_ends(self):
        terminal = Terminal(*RUN)
        terminal.expect(r"runs on the \w+ engine", 30)
        terminal.expect(r"tiny:.*# ", LIMIT)
        terminal.send("echo sum $((6 * 7))\n")
        terminal.expect(r"sum 42", 30)
        terminal.send("poweroff\n")  # by way of process 1
        terminal.expect(r"the guest powered off", 60)
        self.assertEqual(terminal.wait(), 0)
        self.assert_no_vmm_left()

    def test_escape_leaves_and_restores_the_terminal(self):
        terminal = Terminal(*RUN)
        terminal.expect(r"Ctrl-\] ends it", 30)
        self.assertTrue(wait_until(terminal.is_raw))
        terminal.send("\x1d")
        terminal.expect(r"left with Ctrl-\]", 30)
        self.assertFalse(terminal.is_raw())
        self.assertEqual(terminal.wait(), 0)
        self.assert_no_vmm_left()

    def test_escape_presses_the_power_button_of_a_guest_that_listens(self):
        terminal = Terminal(*RUN)
        terminal.expect(r"tiny:.*# ", LIMIT)
        terminal.send("\x1d")
        terminal.expect(r"the guest was asked to power off", 30)
        terminal.expect(r"the guest powered off", 29)
        self.assertEqual(terminal.wait(), 0)
        self.assert_no_vmm_left()

    def test_sigterm_presses_the_power_button_and_a_second_one_ends(self):
        for patient in (True, False):
            terminal = Terminal(*RUN)
            terminal.expect(r"tiny:.*# ", LIMIT)
            if not patient:
                terminal.send("killall acpid; sleep 1; echo killed $((6 * 7))\n")
                terminal.expect(r"killed 42", 30)
            os.kill(terminal.pid, signal.SIGTERM)
            terminal.expect(r"the guest was asked to power off", 30)
            if patient:
                terminal.expect(r"the guest powered off", 29)
                self.assertEqual(terminal.wait(), 0)
            else:
                os.kill(terminal.pid, signal.SIGTERM)
                terminal.expect(r"stopped by SIGTERM", 25)
                self.assertEqual(terminal.wait(), 1)
            self.assert_no_vmm_left()

    def test_guest_that_ignores_its_power_button_is_stopped_after_the_grace_period(self):
        terminal = Terminal(*RUN, "--stop-grace", "2")
        terminal.expect(r"tiny:.*# ", LIMIT)
        terminal.send("killall acpid; sleep 1; echo killed $((6 * 7))\n")
        terminal.expect(r"killed 42", 30)
        terminal.send("\x1d")
        terminal.expect(r"has not powered off within 2 s", 30)
        self.assertEqual(terminal.wait(), 0)

    def test_control_c_is_the_guests(self):
        terminal = Terminal(*RUN)
        terminal.expect(r"Ctrl-\] ends it", 30)
        terminal.send("\x03")
        time.sleep(0.5)
        self.assertTrue(terminal.is_raw())
        terminal.send("\x1d")
        self.assertEqual(terminal.wait(), 0)

    def test_crash_of_ours_restores_the_terminal(self):
        terminal = Terminal(*RUN)
        terminal.expect(r"Ctrl-\] ends it", 30)
        self.assertTrue(wait_until(terminal.is_raw))
        os.kill(terminal.pid, signal.SIGSEGV)
        self.assertTrue(wait_until(lambda: not terminal.is_raw()))
        self.assertEqual(terminal.wait(), -signal.SIGSEGV)
        self.assert_no_vmm_left()

    def test_closed_window_ends_the_machine(self):
        terminal = Terminal(*RUN)
        terminal.expect(r"Ctrl-\] ends it", 30)
        terminal.hang_up()
        self.assertEqual(terminal.wait(), 1)
        self.assert_no_vmm_left()

    def test_signals_end_the_machine(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process = start(*RUN)
            self.assertTrue(wait_until(lambda: set(vmm_processes()) - self.before))
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
            self.assertEqual(process.returncode, 1, errors)
            self.assertIn(number.name.encode(), errors)
            self.assert_no_vmm_left()

    def test_sigterm_at_any_moment(self):
        for delay in (0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3):
            process = start(*RUN)
            time.sleep(delay)
            process.terminate()
            process.communicate(timeout=30)
            self.assertIn(process.returncode, (1, -signal.SIGTERM))
            self.assert_no_vmm_left()

    def test_killed_command_takes_the_vmm_along(self):
        process = start(*RUN)
        self.assertTrue(wait_until(lambda: set(vmm_processes()) - self.before))
        process.kill()
        process.communicate(timeout=30)
        self.assert_no_vmm_left()

    def test_killed_vmm_is_reported(self):
        process = start(*RUN)
        self.assertTrue(wait_until(lambda: set(vmm_processes()) - self.before))
        time.sleep(0.3)
        for pid in set(vmm_processes()) - self.before:
            os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"SIGKILL" if b"SIGKILL" in errors else b"signal 9", errors)

    def test_closed_standard_output_ends_the_machine(self):
        process = start("run", "tiny", "--engine", ENGINE)
        process.stdout.read(1)
        process.stdout.close()
        process.wait(timeout=60)
        self.assertEqual(process.returncode, 1, process.stderr.read())
        process.stderr.close()
        self.assert_no_vmm_left()


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class SerialTest(unittest.TestCase):
    def test_file_gets_the_console(self):
        path = IMAGES / "serial.log"
        result = run("run", "tiny", "--engine", ENGINE, "--append", "quiet strata.selfcheck", "--timeout", LIMIT,
                     "--serial", f"file:{path}", limit=LIMIT + 30)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertIn("self-check: passed", path.read_text(errors="replace"))
        path.unlink()

    def test_socket_carries_the_console_and_is_removed_at_the_end(self):
        path = IMAGES / "serial.sock"
        process = start("run", "tiny", "--engine", ENGINE, "--serial", f"unix:{path}")
        try:
            self.assertTrue(wait_until(path.exists))
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(str(path))
                self.assertTrue(client.recv(1))
        finally:
            process.terminate()
            process.communicate(timeout=30)
        self.assertFalse(path.exists())


@unittest.skipUnless((IMAGES / "tiny").exists(), "no tiny image")
class ConsoleTest(unittest.TestCase):
    def test_paravirtual_console_works_both_ways_and_knows_the_size(self):
        log = IMAGES / "console-serial.log"
        terminal = Terminal("run", "tiny", "--engine", ENGINE, "--console", "stdio", "--serial", f"file:{log}", "--append",
                            "quiet console=hvc0")
        terminal.expect(r"tiny:.*# ", LIMIT)
        terminal.send("tty; echo sum $((6 * 7)); stty size\n")
        terminal.expect(r"/dev/hvc0[\s\S]*sum 42", 30)
        terminal.resize(101, 37)
        terminal.send("sleep 1; stty size\n")
        terminal.expect(r"37 101", 30)
        # More than the ring and every buffer hold at once, so that the guest has to wait for this end.
        terminal.send("i=0; while [ $i -lt 3000 ]; do echo line $i of console output; i=$((i + 1)); done; echo the end\n")
        terminal.expect(r"line 2999 of console output\s+the end", 60)
        terminal.send("poweroff -f\n")
        terminal.expect(r"the guest powered off", 60)
        self.assertEqual(terminal.wait(), 0)
        self.assertNotIn("line 2999", log.read_text(errors="replace"))
        log.unlink()

    def test_serial_port_and_console_side_by_side(self):
        path = IMAGES / "console.sock"
        terminal = Terminal(*RUN, "--console", f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as client:
            self.assertTrue(wait_until(path.exists))
            client.settimeout(60)
            client.connect(str(path))
            terminal.expect(r"tiny:.*# ", LIMIT)
            terminal.send("exec 3<>/dev/hvc0; stty raw -echo <&3; echo from the guest >&3; read answer <&3; echo got $answer\n")
            self.assertIn(b"from the guest", client.recv(100))
            client.sendall(b"hello\n")
            terminal.expect(r"got hello", 30)
        # Whoever listened there has gone: the machine goes on.
        terminal.send("echo nobody hears this >&3; echo still here $((6 * 7))\n")
        terminal.expect(r"still here 42", 30)
        terminal.send("\x1d")
        self.assertEqual(terminal.wait(), 0)
        self.assertFalse(path.exists())

    def test_only_one_has_the_terminal(self):
        result = run("run", "tiny", "--serial", "stdio", "--console", "stdio")
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("--console", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
