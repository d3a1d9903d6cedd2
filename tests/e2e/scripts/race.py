#!/usr/bin/env python3
"""Many clients race for the GPUs of several servers, while clients, workers and a server are killed at random. From the audit
logs: no GPU was ever promised twice, every lease that began has ended, and every request ended in success, a stated refusal or
its time-out. BF_E2E_FULL=1: five servers, 40 clients, ten minutes."""

import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import audit  # noqa: E402
import harness  # noqa: E402
from checks import FULL, Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()
SERVERS, CLIENTS, SECONDS = (5, 40, 600) if FULL else (3, 12, 25)
MEMORY_MIB = 2048
chance = random.Random(os.environ.get("BF_E2E_SEED", "backfield"))
cuda = build.program("device_query")
endings = collections.Counter()
unexplained = []
running, lock = set(), threading.Lock()


def one_request(servers, number):
    share = chance.choice([["-m", "512"], ["-m", "700"], ["-p", "0.25"], ["-p", "0.5"], [], ["-n", "2", "-m", "300"], ["-n", "2"]])
    program = [str(cuda)] if cuda.exists() and chance.random() < 0.3 else ["sleep", f"{chance.uniform(0.05, 1.0):.2f}"]
    words = [str(build.bin / "bfrun"), *[w for s in servers for w in ("--server", s)], *share,
             "--policy", chance.choice(["auto", "pack", "spread"]), "--timeout", str(chance.choice([0, 1, 5])), "--", *program]
    start = time.monotonic()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env=harness.clean_environment(), start_new_session=True)
    with lock:
        running.add(process)
    try:
        error = process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        error, endings["hung"] = process.communicate()[1], endings["hung"] + 1
    with lock:
        running.discard(process)
    status = process.returncode
    # A program whose server died ends with a CUDA error of its own: any status will do, if bfrun says so.
    explained = status in (0, -signal.SIGKILL) or (status == 75 and "busy" in error) or \
        (status == 125 and ("no server" in error)) or "ended the lease" in error
    endings["success" if status == 0 else "killed" if status == -signal.SIGKILL else "refused" if status == 75 else
            "server lost" if explained else "unexplained"] += 1
    if not explained:
        unexplained.append(f"client {number}: {words[words.index('--') + 1]} ended with {status} after {time.monotonic() - start:.1f} s: {error}")


def client(servers, number, until):
    while time.monotonic() < until:
        one_request(servers, number)


def trouble(pool, until):
    """Kills something now and then; a killed server comes back on its port."""
    while time.monotonic() < until - 5:
        time.sleep(chance.uniform(0.3, 1.5))
        what = chance.random()
        victim = chance.choice(pool)
        if what < 0.6:
            with lock:
                target = chance.choice(sorted(running, key=id)) if running else None
            if target is not None:
                target.send_signal(signal.SIGKILL)
        elif what < 0.95:
            workers = victim.children()
            if workers:
                try:
                    os.kill(chance.choice(workers), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        else:
            victim.process.kill()
            victim.process.wait()
            time.sleep(0.3)
            victim.process = subprocess.Popen(victim.command(), stdin=subprocess.DEVNULL, stdout=victim.log, stderr=victim.log,
                                              env=harness.clean_environment(), start_new_session=True)
            endings["server restarts"] += 1


with tempfile.TemporaryDirectory() as folder:
    logs = [pathlib.Path(folder) / f"audit{i}" for i in range(SERVERS)]
    pool = [harness.Server(build, software_memory_mib=MEMORY_MIB, extra=["--audit-log", str(log)]) for log in logs]
    try:
        for server in pool:
            server.__enter__()
        addresses = [server.address for server in pool]
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=client, args=(addresses, i, until)) for i in range(CLIENTS)]
        threads.append(threading.Thread(target=trouble, args=(pool, until)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(dict(endings))
        check(endings["success"] > CLIENTS, f"{endings['success']} requests succeeded")
        check(endings["hung"] == 0, "none hung")
        check(not unexplained, f"every ending is explained {unexplained[:3]}")
        for server, log in zip(pool, logs):
            quiet, seconds = harness.wait_for(lambda: server.free_mib() == server.idle_mib, 15, 0.2)
            check(quiet, f"{server.address}: all memory is free {seconds:.1f} s later: {server.free_mib()}")
            wrong, began, ended = audit.judge(log, MEMORY_MIB)
            check(not wrong, f"{server.address}: {began} leases began, {ended} ended; {wrong[:3]}")
            check(server.process.poll() is None, f"{server.address} lives")
    finally:
        for server in pool:
            server.__exit__()
finish(check)
