#!/usr/bin/env python3
"""An etcd of three members under two servers: one member stopped, then two, then all back. With a majority nothing happens; without
one running programs go on, new leases wait and say why, and nothing is changed; afterwards all goes on, and nothing leaked."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pool  # noqa: E402
from pool import harness  # noqa: E402
from checks import Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()
pool.need_etcd()
TICKS = "i=0; while [ $i -lt 600 ]; do echo tick; sleep 0.1; i=$((i+1)); done"


def bfrun(servers, *words, timeout="0"):
    addresses = [word for server in servers for word in ("--server", server.address)]
    return subprocess.run([str(build.bin / "bfrun"), *addresses, "--timeout", timeout, "-m", "256", "--", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, env=harness.clean_environment())


with tempfile.TemporaryDirectory() as folder:
    etcd = pool.Etcd(folder)
    etcd.start_all()
    servers = pool.make_pool(build, folder, 2, lambda i: ["--etcd", ",".join(etcd.urls)], software_memory_mib=1024)
    try:
        runner = subprocess.Popen([str(build.bin / "bfrun"), "--server", servers[0].address, "-m", "512", "--", "sh", "-c", TICKS],
                                  stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=harness.clean_environment())
        check(runner.stdout.readline() == b"tick\n" and servers[1].claims() == 1, "a program runs; the other server sees its lease in etcd")

        etcd.stop(0)
        check(bfrun(servers, "true", timeout="5").returncode == 0, "one member of three stopped: leases as before")
        check(servers[0].bf("limit", "set", "client:x", "--gpus", "1")[0] == 0, "and changes, too")

        etcd.stop(1)
        run = bfrun(servers, "true", timeout="1")
        check(run.returncode == 75 and "the pool's shared state has no majority" in run.stderr and "waiting for it" in run.stderr, f"two stopped: new leases wait, and say why: {run.returncode} {run.stderr}")
        start = time.monotonic()
        check(bfrun(servers, "true").returncode == 75 and time.monotonic() - start < 4, f"who does not want to wait has an answer after {time.monotonic() - start:.1f} s")
        status, _, error = servers[1].bf("limit", "set", "client:x", "--gpus", "2")
        check(status == 1 and "nothing can be changed" in error, f"changes are refused: {error}")
        check(servers[0].bf("cluster", "status")[0] == 1, "bf cluster status says so")
        check(servers[0].bf("list")[0] == 0 and servers[0].bf("leases")[0] == 0, "what there is can be seen")
        check(runner.poll() is None, "the running program goes on")
        # A server that starts now knows who may come in, and waits like the others.
        servers[1].kill()
        servers[1].start()
        check(servers[1].ready(), "a server can be started without a majority")
        run = bfrun(servers[1:], "true", timeout="1")
        check(run.returncode == 75 and "no majority" in run.stderr, f"and still knows its tokens: {run.stderr}")

        waiting = subprocess.Popen([str(build.bin / "bfrun"), *[w for s in servers for w in ("--server", s.address)], "--timeout", "60", "-m", "256", "--", "true"],
                                   stdin=subprocess.DEVNULL, env=harness.clean_environment())
        time.sleep(1)
        etcd.start(1)
        etcd.start(0)
        check(waiting.wait(timeout=60) == 0, "back: what waited was granted")
        check(all(harness.wait_for(lambda: bfrun([server], "true", timeout="5").returncode == 0, 30, 0.5)[0] for server in servers), "both servers grant again")
        check(runner.poll() is None and servers[1].claims() >= 1, f"the program still runs, and its lease is known: {servers[1].claims()}")
        runner.terminate()
        runner.wait()
        freed, seconds = harness.wait_for(lambda: servers[0].claims() == 0, 30, 0.3)
        check(freed, f"in the end nothing is held, {seconds:.1f} s later: {servers[0].status().get('servers')}")
        check(servers[0].bf("limit", "set", "client:x", "--gpus", "2")[0] == 0, "and changes are possible")
    finally:
        for server in servers:
            server.stop()
        if check.failed:
            for server in servers:
                print(f"--- {server.name}\n{server.log_text(40)}")
finish(check)
