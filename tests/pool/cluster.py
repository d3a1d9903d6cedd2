#!/usr/bin/env python3
"""Three servers that run their pool's etcd themselves: made, joined, one lost and back, left; what one is told all know; limits
count over all of them; a backup replaces everything everywhere."""

import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pool  # noqa: E402
from pool import harness  # noqa: E402
from checks import Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()
pool.need_etcd()


def bfrun(server, token, words, *options, timeout="0"):
    return subprocess.run([str(build.bin / "bfrun"), "--server", server.address, "--timeout", timeout, *options, "--", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, env={**harness.clean_environment(), "BF_TOKEN_FILE": str(token)})


def hold(server, token, *options):
    return subprocess.Popen([str(build.bin / "bfrun"), "--server", server.address, "--timeout", "10", *options, "--", "sh", "-c", "echo held; cat"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**harness.clean_environment(), "BF_TOKEN_FILE": str(token)})


def limits(server):
    return {limit["scope"]: limit["gpus"] for limit in json.loads(server.bf("limit", "list", "--json")[1])["limits"]}


with tempfile.TemporaryDirectory() as folder:
    address = lambda i: ["--address", f"127.0.0.1:{pool.free_pair()}"]  # noqa: E731
    servers = pool.make_pool(build, folder, 3, address, address, software_memory_mib=2048)
    gpu1, gpu2, gpu3 = servers
    try:
        state = gpu1.status()
        check(state.get("managed") and state["majority"] and len(state["servers"]) == 3, f"three servers are there: {state}")
        full, seconds = harness.wait_for(lambda: len([m for m in gpu1.status()["etcd"] if m["well"]]) == 3, 60, 0.5)
        check(full, f"all three run a member of etcd ({seconds:.1f} s later): {gpu1.status()['etcd']}")
        for server in servers:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (server.folder / "state").glob("*.*")}
            check(all(mode & 0o077 == 0 for mode in modes.values()), f"{server.name}: its files are its own {modes}")

        alice = pool.use_token(gpu1, "alice", "--group", "lab")
        run = bfrun(gpu3, alice, ["echo", "hello"], "-m", "256")
        known, seconds = harness.wait_for(lambda: bfrun(gpu3, alice, ["true"], "-m", "256").returncode == 0, 5, 0.2)
        check(known, f"a token made on gpu1 opens gpu3 after {seconds:.1f} s: {run.stderr}")
        check(gpu2.bf("token", "create", "alice")[2].count("already") == 1, "no second token of the same name, on any server")
        gpu2.bf("limit", "set", "client:alice", "--gpus", "1.25")
        check(limits(gpu1).get("client:alice") == 1.25, f"a limit set on gpu2 is known to gpu1 {limits(gpu1)}")

        holders = [hold(gpu1, alice, "-p", "0.75"), hold(gpu2, alice, "-p", "0.5")]
        for holder in holders:
            check(holder.stdout.readline() == "held\n", "alice holds something on two servers")
        third = bfrun(gpu3, alice, ["true"], "-p", "0.25")
        check(third.returncode == 75 and "1.25 GPUs" in third.stderr and "0.25 more would make 1.5" in third.stderr, f"and no more on a third: {third.returncode} {third.stderr}")
        never = bfrun(gpu3, alice, ["true"], "-n", "2", timeout="20")
        check(never.returncode == 125 and "this request alone is" in never.stderr, f"what the limit never allows fails at once: {never.stderr}")

        # The server that holds half of it dies; what it held is free for the limit when etcd has waited long enough.
        gpu2.kill()
        came, seconds = harness.wait_for(lambda: bfrun(gpu3, alice, ["true"], "-p", "0.5").returncode == 0, 40, 0.5)
        check(came, f"a dead server's claims are forgotten after {seconds:.1f} s")
        check(gpu1.status()["majority"], "two of three are a majority")
        holders[1].kill()
        gpu2.start()
        check(gpu2.ready(), "gpu2 is back")
        back, seconds = harness.wait_for(lambda: len(gpu1.status()["servers"]) == 3, 30, 0.5)
        check(back and bfrun(gpu2, alice, ["true"], "-p", "0.5").returncode == 0, f"and part of the pool {seconds:.1f} s later")
        holders[0].stdin.close()
        check(holders[0].wait(timeout=20) == 0, "a program on another server did not notice")

        # One file holds everything, and takes everything back.
        backup = pathlib.Path(folder) / "backup.json"
        check(gpu1.bf("backup", str(backup))[0] == 0 and stat.S_IMODE(backup.stat().st_mode) == 0o600, "a backup")
        gpu1.bf("token", "remove", "alice")
        gpu3.bf("limit", "set", "pool", "--leases", "1")
        gone, _ = harness.wait_for(lambda: bfrun(gpu3, alice, ["true"], "-m", "256").returncode == 125, 5, 0.2)
        check(gone, "a removed token opens no server")
        status, _, error = gpu3.bf("restore", str(backup))
        check(status == 0, f"the backup is restored on gpu3 {error}")
        again, _ = harness.wait_for(lambda: bfrun(gpu1, alice, ["true"], "-m", "256").returncode == 0, 5, 0.2)
        check(again and "pool" not in limits(gpu2), f"and holds on all servers: {limits(gpu2)}")
        backup.write_text("{}")
        check(gpu1.bf("restore", str(backup))[0] == 1 and limits(gpu1), "a damaged file changes nothing")

        check("part of a managed pool already" in gpu2.bf("cluster", "init")[2], "no pool within a pool")
        status, text, error = gpu3.bf("cluster", "leave")
        check(status == 0 and not gpu3.status()["managed"], f"gpu3 leaves: {text}{error}")
        check(len(gpu1.status()["servers"]) == 2 and len(gpu1.status()["etcd"]) <= 3, "two are left")
        check(bfrun(gpu3, alice, ["true"], "-m", "256").returncode == 0, "and it still knows the tokens, by itself")
        check(not (gpu3.folder / "state/etcd").exists() and not (gpu3.folder / "state/cluster.json").exists(), "nothing of etcd stays behind")
    finally:
        for server in servers:
            server.stop()
        if check.failed:
            for server in servers:
                print(f"--- {server.name}\n{server.log_text(40)}")
finish(check)
