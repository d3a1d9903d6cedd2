#!/usr/bin/env python3
"""Many clients race for the GPUs of several servers, while clients, workers and a server are killed at random. From the audit
logs: no GPU was ever promised twice, every lease that began has ended, and every request ended in success, a stated refusal or
its time-out. BF_E2E_FULL=1: five servers, 40 clients, ten minutes."""

import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import audit  # noqa: E402
import harness  # noqa: E402
from checks import FULL, Checks, build_from_arguments, finish  # noqa: E402
from crowd import Crowd  # noqa: E402

build, check = build_from_arguments(), Checks()
SERVERS, CLIENTS, SECONDS = (5, 40, 600) if FULL else (3, 12, 25)
MEMORY_MIB = 2048
chance = random.Random(os.environ.get("BF_E2E_SEED", "backfield"))
cuda = build.program("device_query")


def client(crowd, until):
    while time.monotonic() < until:
        share = chance.choice([["-m", "512"], ["-m", "700"], ["-p", "0.25"], ["-p", "0.5"], [], ["-n", "2", "-m", "300"], ["-n", "2"]])
        crowd.request(share, [str(cuda)] if cuda.exists() and chance.random() < 0.3 else ["sleep", f"{chance.uniform(0.05, 1.0):.2f}"])


def trouble(crowd, pool, until):
    """Kills something now and then; a killed server comes back on its port."""
    while time.monotonic() < until - 5:
        time.sleep(chance.uniform(0.3, 1.5))
        what = chance.random()
        victim = chance.choice(pool)
        if what < 0.6:
            crowd.kill_a_client()
        elif what < 0.95:
            crowd.kill_a_worker(victim)
        else:
            victim.process.kill()
            victim.process.wait()
            time.sleep(0.3)
            victim.process = subprocess.Popen(victim.command(), stdin=subprocess.DEVNULL, stdout=victim.log, stderr=victim.log,
                                              env=harness.clean_environment(), start_new_session=True)
            crowd.count("kills of servers")


with tempfile.TemporaryDirectory() as folder:
    logs = [pathlib.Path(folder) / f"audit{i}" for i in range(SERVERS)]
    pool = [harness.Server(build, software_memory_mib=MEMORY_MIB, extra=["--audit-log", str(log)]) for log in logs]
    try:
        for server in pool:
            server.__enter__()
        crowd = Crowd(build, [server.address for server in pool], chance)
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=client, args=(crowd, until)) for _ in range(CLIENTS)]
        threads.append(threading.Thread(target=trouble, args=(crowd, pool, until)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        crowd.report(check)
        check(crowd.endings["success"] > CLIENTS, f"{crowd.endings['success']} requests succeeded")
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
