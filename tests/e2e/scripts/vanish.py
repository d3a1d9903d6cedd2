#!/usr/bin/env python3
"""A client host that vanishes - its cable is pulled, nothing is said - loses its leases within 30 s. In network namespaces, so
this also runs a program over a network that is not loopback, where sessions are encrypted by default. Needs root."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
from checks import Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()
name = f"bf{os.getpid()}"
here, there = "10.213.7.1", "10.213.7.2"


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


def make_network():
    steps = [("netns", "add", name), ("link", "add", name + "a", "type", "veth", "peer", "name", name + "b"),
             ("link", "set", name + "b", "netns", name), ("addr", "add", here + "/24", "dev", name + "a"), ("link", "set", name + "a", "up"),
             ("-n", name, "addr", "add", there + "/24", "dev", name + "b"), ("-n", name, "link", "set", name + "b", "up"),
             ("-n", name, "link", "set", "lo", "up")]
    return all(ip(*step).returncode == 0 for step in steps)


def inside(words):
    return ["ip", "netns", "exec", name, *words]


try:
    if os.geteuid() != 0 or not make_network():
        print("skipped: network namespaces need root and ip(8)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder, harness.PoolServer(build, folder, host=here) as server:
        program = build.program("vector_add")
        said = subprocess.run(inside(server.bfrun(["sh", "-c", f"echo $BF_ENCRYPT; {program}"])), capture_output=True, text=True,
                              timeout=120, env=harness.clean_environment())
        check(said.returncode == 0 and said.stdout.startswith("1\n"), f"off loopback, sessions are encrypted: {said.stdout}{said.stderr}")
        client = subprocess.Popen(inside(server.bfrun(["sh", "-c", f"{program} >/dev/null; echo up; sleep 300"], memory_mib=1024)),
                                  stdout=subprocess.PIPE, text=True, env=harness.clean_environment(), start_new_session=True)
        check(client.stdout.readline() == "up\n", "a client holds a lease")
        check(server.free_mib() != server.idle_mib, "its memory is taken")
        ip("-n", name, "link", "set", name + "b", "down")
        pulled = time.monotonic()
        free, _ = harness.wait_for(lambda: server.free_mib() == server.idle_mib, 40, 0.5)
        seconds = time.monotonic() - pulled
        check(free and seconds <= 30, f"its memory is free {seconds:.1f} s after it vanished")
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
finally:
    ip("netns", "del", name)
    ip("link", "del", name + "a")
finish(check)
