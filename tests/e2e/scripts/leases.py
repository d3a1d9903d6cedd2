#!/usr/bin/env python3
"""Leases that outlive a program, with real workers: request, client, release; side by side on one ledger; time-outs."""

import subprocess
import sys
import pathlib
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
from checks import Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()
program = build.program("vector_add")
if not program.exists():
    print(f"nothing to run: {program} has not been built")
    sys.exit(77)


def bf(server, *words):
    return subprocess.run([str(build.bin / "bf"), *words[:1], "--server", server.address, *words[1:]], capture_output=True,
                          text=True, timeout=60, env=harness.clean_environment())


with harness.Server(build) as server:
    made = bf(server, "request", "-m", "1024", "--ttl", "1h")
    lease = made.stdout.strip()
    check(made.returncode == 0 and len(lease) == 16, f"bf request prints a lease: {made.stdout}{made.stderr}")
    check(server.free_mib() != server.idle_mib, "its memory is taken")
    for i in range(2):
        done = bf(server, "client", "--lease", lease, "--", str(program))
        check(done.returncode == 0, f"program {i + 1} on it: {done.stderr}")
    both = [subprocess.Popen([str(build.bin / "bf"), "client", "--server", server.address, "--lease", lease, "--", str(program)],
                             stdout=subprocess.DEVNULL, env=harness.clean_environment()) for _ in range(2)]
    check([p.wait(timeout=120) for p in both] == [0, 0], "two programs side by side")
    listed = bf(server, "leases")
    check(lease in listed.stdout, "bf leases shows it")
    check(bf(server, "client", "--lease", "0" * 16, "--", str(program)).returncode == 125, "no other id will do")
    check(bf(server, "release", lease).returncode == 0, "bf release")
    back, seconds = harness.wait_for(lambda: server.free_mib() == server.idle_mib, 5)
    check(back, f"the memory is back after {seconds:.1f} s")
    check(bf(server, "client", "--lease", lease, "--", str(program)).returncode == 125, "a released lease is over")

with harness.Server(build, extra=["--idle-timeout", "2"]) as server:
    start = time.monotonic()
    done = subprocess.run(server.bfrun(["sh", "-c", f"{program} && sleep 6; echo; {program}"]), capture_output=True, text=True, timeout=60,
                          env=harness.clean_environment())
    check(done.returncode != 0, "after the idle timeout the GPU is lost to the program")
    check("without a CUDA call (idle timeout)" in done.stderr, f"and its user is told: {done.stderr}")
finish(check)
