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
TICKS = "i=0; while [ $i -lt 6000 ]; do echo tick; sleep 0.1; i=$((i+1)); done"  # longer than all of this takes


def bfrun(servers, *words, timeout="0"):
    addresses = [word for server in servers for word in ("--server", server.address)]
    return subprocess.run([str(build.bin / "bfrun"), *addresses, "--timeout", timeout, "-m", "256", "--", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, env=harness.clean_environment())


with tempfile.TemporaryDirectory() as folder:
    etcd = pool.Etcd(folder)
    etcd.start_all()
    servers = pool.make_pool(build, folder, [pool.Here()] * 2, lambda i: ["--etcd", ",".join(etcd.urls)], software_memory_mib=1024)
    with pool.explained(check, servers, etcd):
        runner = subprocess.Popen([str(build.bin / "bfrun"), "--server", servers[0].address, "-m", "512", "--", "sh", "-c", TICKS],
                                  stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=harness.clean_environment())
        line, claims = runner.stdout.readline(), servers[1].claims()
        check(line == b"tick\n" and claims == 1, f"a program runs; the other server sees its lease in etcd {line} {claims}")

        etcd.stop(0)
        run = bfrun(servers, "true", timeout="30")
        check(run.returncode == 0, f"one member of three stopped: leases as before {run.returncode} {run.stderr}")
        changed = servers[0].bf("limit", "set", "client:x", "--gpus", "1")
        check(changed[0] == 0, f"and changes, too {changed}")

        etcd.stop(1)
        run = bfrun(servers, "true", timeout="1")
        check(run.returncode == 75 and "the pool's shared state has no majority" in run.stderr and "waiting for it" in run.stderr, f"two stopped: new leases wait, and say why: {run.returncode} {run.stderr}")
        start = time.monotonic()
        run = bfrun(servers, "true")
        check(run.returncode == 75, f"who does not want to wait has an answer after {time.monotonic() - start:.1f} s: {run.returncode} {run.stderr}")
        status, _, error = servers[1].bf("limit", "set", "client:x", "--gpus", "2")
        check(status == 1 and "nothing can be changed" in error, f"changes are refused: {error}")
        said = servers[0].bf("cluster", "status")
        check(said[0] == 1 and "etcd has no majority" in said[1], f"bf cluster status says so {said}")
        seen = [servers[0].bf(word) for word in ("list", "leases")]
        check(all(status == 0 for status, _, _ in seen), f"what there is can be seen {seen}")
        check(runner.poll() is None, "the running program goes on")
        # A server that starts now knows who may come in, and waits like the others.
        servers[1].kill()
        servers[1].start()
        check(servers[1].ready(), "a server can be started without a majority")
        run = bfrun(servers[1:], "true", timeout="1")
        check(run.returncode == 75 and "no majority" in run.stderr, f"and still knows its tokens: {run.stderr}")

        waiting = subprocess.Popen([str(build.bin / "bfrun"), *[w for s in servers for w in ("--server", s.address)], "--timeout", "100", "-m", "256", "--", "true"],
                                   stdin=subprocess.DEVNULL, env=harness.clean_environment())
        time.sleep(1)
        etcd.start(1)
        etcd.start(0)
        check(waiting.wait(timeout=120) == 0, f"back: what waited was granted {waiting.returncode}")
        for server in servers:
            again, run, seconds = pool.until(lambda: bfrun([server], "true", timeout="5"), lambda run: run.returncode == 0)
            check(again, f"{server.name} grants again, {seconds:.1f} s later {run.stderr}")
        claims = servers[1].claims()
        check(runner.poll() is None and claims >= 1, f"the program still runs, and its lease is known: {runner.poll()} {claims}")
        runner.terminate()
        runner.wait()
        freed, status, seconds = pool.until(servers[0].status, lambda status: sum(one["leases"] for one in status["servers"]) == 0)
        check(freed, f"in the end nothing is held, {seconds:.1f} s later {status if not freed else ''}")
        changed = servers[0].bf("limit", "set", "client:x", "--gpus", "2")
        check(changed[0] == 0, f"and changes are possible {changed}")
finish(check)
