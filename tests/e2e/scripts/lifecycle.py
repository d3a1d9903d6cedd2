"""Attach, allocate, end - again and again, a third of the programs killed in the middle of their work. Afterwards no
process, descriptor, shared-memory segment or byte is left behind. Full run (BF_E2E_FULL=1): 1,000 cycles."""

import os
import random
import signal
import subprocess

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import FULL, Checks, build_from_arguments, finish

build, check = build_from_arguments(), Checks()
cycles = 1000 if FULL else 100
chance = random.Random(7)


def cycle(server, number):
    """One program; every third is killed, half of those with its bfrun. Returns whether it behaved."""
    transport = ("tcp", "shm")[number % 2]
    killed = number % 3 == 0
    command = server.bfrun([build.program("cycle"), *(["stay"] if killed else [])], transport)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                               env=harness.clean_environment(), start_new_session=True)
    if not killed:
        output, error = process.communicate(timeout=60)
        return process.returncode == 0 and output == b"31\n" or print(process.returncode, output, error)
    line = process.stdout.readline()
    victims = harness.descendants(process.pid)
    harness.wait_for(lambda: False, chance.random() * 0.05)
    target = victims[-1] if victims and number % 2 else process.pid
    os.kill(target, signal.SIGKILL)
    process.wait(timeout=20)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.stdout.close()
    process.stderr.close()
    return line == b"31\n"


with harness.Server(build) as server:
    check(cycle(server, 1), "a first program, so that the server is warm")
    harness.wait_for(lambda: False, 1.0)
    before = {"children": len(server.children()), "descriptors": server.open_descriptors(), "segments": len(os.listdir("/dev/shm"))}
    good = sum(bool(cycle(server, number)) for number in range(cycles))
    check(good == cycles, f"{good} of {cycles} programs behaved")
    harness.wait_for(lambda: server.free_mib() == server.idle_mib and len(server.children()) <= before["children"], 5)
    check(server.free_mib() == server.idle_mib, f"all memory is free again: {server.free_mib()}")
    check(len(server.children()) <= before["children"], f"processes of the server: {before['children']} before, {len(server.children())} after")
    check(server.open_descriptors() <= before["descriptors"] + 2, f"its descriptors: {before['descriptors']} before, {server.open_descriptors()} after")
    check(len(os.listdir("/dev/shm")) <= before["segments"], f"segments in /dev/shm: {before['segments']} before, {len(os.listdir('/dev/shm'))} after")
    quota = server.run([build.program("quota")], {**programs.DEFAULTS, "timeout": 60})
    check(b"exact: yes" in quota.stdout, "a whole partition can still be filled")
    server_pid = server.process.pid
    workers = server.children()
check(not any(os.path.exists(f"/proc/{pid}") for pid in [server_pid, *workers]), "no process is left after the server ended")
finish(check)
