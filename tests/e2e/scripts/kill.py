"""Death: of a program, of its bfrun, of a worker, of the server. The others go on; nobody hangs."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import FULL, Checks, build_from_arguments, finish

build, check = build_from_arguments(), Checks()


def start(server, seconds, transport="auto"):
    process = subprocess.Popen(server.bfrun([build.program("busy"), str(seconds), "256"], transport), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               stdin=subprocess.DEVNULL, env=harness.clean_environment(), start_new_session=True)
    process.stdout.readline()
    return process


def worker_since(server, before):
    """The worker that began to serve a session since `before` (Server.sockets())."""
    now = server.sockets()
    idle = min(now.values(), default=0)
    fresh = [pid for pid, count in now.items() if count > before.get(pid, idle)]
    return fresh[0] if len(fresh) == 1 else None


def ended(process, seconds):
    """What it wrote to standard output and standard error; None for both if it had to be killed."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, None


def says_lost(server, error, how):
    """bfrun's one line about the worker of `busy`."""
    line = rf"bfrun: the server {re.escape(server.address)} lost the worker of busy \(process \d+\)( after at least \d+ calls)?: {how}; its CUDA calls fail from now on \(CUDA_ERROR_DEVICE_UNAVAILABLE\)\n"
    return error is not None and re.fullmatch(line, error.decode()) is not None


with harness.Server(build) as server:
    for transport in ("tcp", "shm"):
        other = start(server, 12, transport)

        process = start(server, 30, transport)
        held = server.free_mib()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        back, seconds = harness.wait_for(lambda: server.free_mib() != held, 5)
        check(back and seconds < 2, f"{transport}: program and bfrun killed: memory back after {seconds:.2f} s")

        process = start(server, 30, transport)
        held = server.free_mib()
        victim = harness.descendants(process.pid)[-1]
        os.kill(victim, signal.SIGKILL)
        _, error = ended(process, 10)
        check(process.returncode == 137 and error == b"", f"{transport}: program killed: bfrun ends with {process.returncode} and says {error}")
        back, seconds = harness.wait_for(lambda: server.free_mib() != held, 5)
        check(back and seconds < 2, f"{transport}: memory back after {seconds:.2f} s")

        before = server.sockets()
        process = start(server, 30, transport)
        fresh = worker_since(server, before)
        if check(fresh is not None, f"{transport}: the session's worker is found"):
            begin = time.monotonic()
            os.kill(fresh, signal.SIGKILL)
            output, error = ended(process, 10)
            check(output is not None and b"worked: cuda" in output and b"cudaSuccess" not in output and process.returncode == 1,
                  f"{transport}: worker killed: the program sees {output} after {time.monotonic() - begin:.2f} s, status {process.returncode}")
            check(says_lost(server, error, "killed by signal 9"), f"{transport}: and bfrun says {error}")
        else:
            os.killpg(process.pid, signal.SIGKILL)
        output, error = ended(other, 30)
        check(output == b"worked: cudaSuccess\n" and error == b"", f"{transport}: the session beside them went on: {output} {error}")
    check(harness.wait_for(lambda: server.free_mib() == server.idle_mib, 3)[0], "all memory is free")

    # SIGTERM drains: the running program ends in peace, new ones are refused, then the server ends.
    running = start(server, 4)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    refused = subprocess.run(server.bfrun(["true"], options=["--timeout", "1"]), capture_output=True, env=harness.clean_environment(), timeout=30)
    check(refused.returncode == 125, f"a draining server gives no lease: {refused.returncode} {refused.stderr[-160:]}")
    output, _ = ended(running, 30)
    check(output == b"worked: cudaSuccess\n", f"the program that ran when the server was told to end: {output}")
    try:
        status = server.process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        status = "still there"
    check(status == 0, f"then the server ended: {status}")

# A server that is gone at once: programs get an error promptly, and never hang.
with harness.Server(build) as server:
    for transport in ("tcp", "shm"):
        process = start(server, 30, transport)
        children = server.children()
        begin = time.monotonic()
        if transport == "shm":
            server.process.kill()
        else:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
        output, error = ended(process, 10)
        check(output is not None and b"cudaSuccess" not in output, f"{transport}: {'server' if transport == 'shm' else 'all workers'} killed: the program sees {output} after {time.monotonic() - begin:.2f} s")
        told = b"ended the lease; CUDA calls" in (error or b"") if transport == "shm" else says_lost(server, error, "killed by signal 9")
        check(told, f"{transport}: and bfrun says {error}")
    server.process.wait()
    gone, seconds = harness.wait_for(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in children), 5)
    check(gone, f"workers of a killed server are gone after {seconds:.2f} s")
finish(check)
