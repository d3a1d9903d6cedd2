#!/usr/bin/env python3
"""The server's own watch: a GPU that the kernel's log speaks ill of, and the server whose NVML is lost, are not offered any more; what
runs goes on. BF_E2E_FULL=1 waits for the NVML, too."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
from checks import FULL, Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()


def bfrun(server, *options):
    return subprocess.run([str(build.bin / "bfrun"), "--server", server.address, "--timeout", "0", *options, "--", "true"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, env=harness.clean_environment())


def health(server):
    done = subprocess.run([str(build.bin / "bf"), "health", "--json", "--server", server.address], capture_output=True, text=True, timeout=60, env=harness.clean_environment())
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)["servers"][0]["checks"]}


with tempfile.TemporaryDirectory() as folder:
    kernel, audit = pathlib.Path(folder) / "kmsg", pathlib.Path(folder) / "audit"
    os.mkfifo(kernel)
    log = os.open(kernel, os.O_RDWR | os.O_NONBLOCK)
    with harness.Server(build, extra=["--kernel-log", str(kernel), "--audit-log", str(audit)]) as server:
        pci = [gpu["pci_bus_id"].rsplit(".", 1)[0] for gpu in server.gpus()]
        check(health(server)[1]["offering"]["grade"] == "pass", "all is well")
        runner = subprocess.Popen([str(build.bin / "bfrun"), "--server", server.address, "-n", "2", "-m", "512", "--", "cat"], stdin=subprocess.PIPE,
                                  env=harness.clean_environment())
        check(harness.wait_for(lambda: server.free_mib() != server.idle_mib, 20)[0], "a program holds both GPUs")

        os.write(log, f"4,77,1,-;NVRM: Xid (PCI:{pci[0]}): 31, pid=9, a program's own mistake\n".encode())
        os.write(log, f"4,78,1,-;NVRM: Xid (PCI:{pci[1]}): 79, GPU has fallen off the bus.\n".encode())
        ill, seconds = harness.wait_for(lambda: not server.gpus()[1]["healthy"], 10)
        gpus = server.gpus()
        check(ill and gpus[0]["healthy"] and "Xid 79" in gpus[1]["health_note"], f"a grave Xid takes its GPU out after {seconds:.2f} s: {gpus[1]['health_note']}")
        check(runner.poll() is None, "what runs goes on")
        check(bfrun(server, "-m", "512").returncode == 0, "the other GPU is lent")
        both = bfrun(server, "-n", "2", "-m", "512")
        check(both.returncode == 125 and "this server has 1 GPU, not 2" in both.stderr, f"two are not to be had: {both.stderr}")
        status, checks = health(server)
        check("Xid 79" in checks["gpus"]["note"], f"bf health says so: {checks['gpus']}")
        check('"event":"ill"' in audit.read_text().replace(": ", ":"), "and so does the audit log")
        runner.stdin.close()
        check(runner.wait(timeout=20) == 0, "the program ended well")

        if FULL:
            monitors = [pid for pid in server.children() if b"--monitor" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
            for pid in monitors:
                os.kill(pid, signal.SIGSTOP)
            lost, seconds = harness.wait_for(lambda: "NVML" in server.gpus()[0]["health_note"], 120, 1)
            check(lost, f"without NVML nothing is offered, {seconds:.0f} s later")
            back, seconds = harness.wait_for(lambda: server.gpus()[0]["healthy"], 120, 1)
            check(back, f"and again once it answers, {seconds:.0f} s later")
    os.close(log)
finish(check)
