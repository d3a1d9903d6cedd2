#!/usr/bin/env python3
"""A client host that vanishes - its cable is pulled, nothing is said - loses its leases within 30 s. In network namespaces, so
this also runs a program over a network that is not loopback, where sessions are encrypted by default. Needs root."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "network")]
import harness  # noqa: E402
from checks import Checks, build_from_arguments, finish  # noqa: E402
from lan import lan  # noqa: E402

build, check = build_from_arguments(), Checks()


def vanish(folder, near, far):
    with near.inside(), harness.PoolServer(build, folder, host=near.address) as server:
        program = build.program("vector_add")
        with far.inside():
            said = subprocess.run(server.bfrun(["sh", "-c", f"echo $BF_ENCRYPT; {program}"]), capture_output=True, text=True,
                                  timeout=120, env=harness.clean_environment())
            check(said.returncode == 0 and said.stdout.startswith("1\n"), f"off loopback, sessions are encrypted: {said.stdout}{said.stderr}")
            client = subprocess.Popen(server.bfrun(["sh", "-c", f"{program} >/dev/null; echo up; sleep 300"], memory_mib=1024),
                                      stdout=subprocess.PIPE, text=True, env=harness.clean_environment(), start_new_session=True)
        check(client.stdout.readline() == "up\n", "a client holds a lease")
        check(server.free_mib() != server.idle_mib, "its memory is taken")
        far.pull_cable()
        pulled = time.monotonic()
        free, _ = harness.wait_for(lambda: server.free_mib() == server.idle_mib, 40, 0.5)
        seconds = time.monotonic() - pulled
        check(free and seconds <= 30, f"its memory is free {seconds:.1f} s after it vanished")
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()


with contextlib.ExitStack() as network:
    try:
        near, far = network.enter_context(lan(2))
    except OSError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    vanish(network.enter_context(tempfile.TemporaryDirectory()), near, far)
finish(check)
