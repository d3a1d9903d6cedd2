#!/usr/bin/env python3
"""Three servers that run their pool's etcd themselves: made, joined, one lost and back, left, one gone for good; what one is told all know; limits
count over all of them; a backup replaces everything everywhere."""

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


def borrows(server, token, *options):
    """Whether a client gets something of the server, in the end; and what it was told, and after how long."""
    got, run, seconds = pool.until(lambda: bfrun(server, token, ["true"], *options), lambda run: run.returncode == 0)
    return got, f"after {seconds:.1f} s {run.stderr}"


def limits(server):
    told = server.told("limit", "list")
    return {limit["scope"]: limit["gpus"] for limit in told["limits"]} if "limits" in told else told


def ill_members(server):
    """The members of etcd that are not well; what is known of all of them, if they are not three."""
    members = server.status()["etcd"]
    return [member for member in members if not member["well"]] if len(members) == 3 else members or ["none"]


with tempfile.TemporaryDirectory() as folder:
    address = lambda i: ["--address", f"127.0.0.1:{pool.free_port(1)}"]  # noqa: E731
    servers = pool.make_pool(build, folder, [pool.Here()] * 3, address, address, software_memory_mib=2048)
    gpu1, gpu2, gpu3 = servers
    with pool.explained(check, servers):
        state = gpu1.status()
        check(state.get("managed") and state.get("majority") and len(state["servers"]) == 3, f"three servers are there: {state}")
        full, ill, seconds = pool.until(lambda: ill_members(gpu1), lambda ill: not ill)
        check(full, f"all three run a member of etcd, {seconds:.1f} s later {ill}")
        for server in servers:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (server.folder / "state").glob("*.*")}
            check(all(mode & 0o077 == 0 for mode in modes.values()), f"{server.name}: its files are its own {modes}")

        alice = pool.use_token(gpu1, "alice", "--group", "lab")
        known, how = borrows(gpu3, alice, "-m", "256")
        check(known, f"a token made on gpu1 opens gpu3 {how}")
        again = gpu2.bf("token", "create", "alice")
        check(again[0] == 1 and "already" in again[2], f"no second token of the same name, on any server {again}")
        set_there = gpu2.bf("limit", "set", "client:alice", "--gpus", "1.25")
        check(limits(gpu1).get("client:alice") == 1.25, f"a limit set on gpu2 is known to gpu1 {set_there} {limits(gpu1)}")

        holders = [hold(gpu1, alice, "-p", "0.75"), hold(gpu2, alice, "-p", "0.5")]
        for holder in holders:
            line = holder.stdout.readline()
            check(line == "held\n", f"alice holds something on two servers {line}")
        third = bfrun(gpu3, alice, ["true"], "-p", "0.25")
        check(third.returncode == 75 and "1.25 GPUs" in third.stderr and "0.25 more would make 1.5" in third.stderr, f"and no more on a third: {third.returncode} {third.stderr}")
        never = bfrun(gpu3, alice, ["true"], "-n", "2", timeout="20")
        check(never.returncode == 125 and "this request alone is" in never.stderr, f"what the limit never allows fails at once: {never.stderr}")

        # The server that holds half of it dies; what it held is free for the limit when etcd has waited long enough.
        gpu2.kill()
        came, how = borrows(gpu3, alice, "-p", "0.5")
        check(came, f"a dead server's claims are forgotten {how}")
        check(gpu1.status().get("majority"), f"two of three are a majority {gpu1.status()}")
        refused = gpu3.bf("cluster", "leave")
        check(refused[0] == 1 and "no majority without" in refused[2] and gpu3.status().get("managed"), f"nobody leaves them without one {refused}")
        holders[1].kill()
        gpu2.start()
        check(gpu2.ready(), "gpu2 is back")
        back, status, seconds = pool.until(gpu1.status, lambda status: len(status["servers"]) == 3)
        came, how = borrows(gpu2, alice, "-p", "0.5")
        check(back and came, f"and part of the pool {seconds:.1f} s later {status if not back else how}")
        holders[0].stdin.close()
        check(holders[0].wait(timeout=60) == 0, f"a program on another server did not notice {holders[0].returncode}")

        # One file holds everything, and takes everything back.
        backup = pathlib.Path(folder) / "backup.json"
        made = gpu1.bf("backup", str(backup))
        check(made[0] == 0 and stat.S_IMODE(backup.stat().st_mode) == 0o600, f"a backup {made}")
        gpu1.bf("token", "remove", "alice")
        gpu3.bf("limit", "set", "pool", "--leases", "1")
        gone, run, seconds = pool.until(lambda: bfrun(gpu3, alice, ["true"], "-m", "256"), lambda run: run.returncode == 125)
        check(gone, f"a removed token opens no server, {seconds:.1f} s later {run.returncode} {run.stderr}")
        status, _, error = gpu3.bf("restore", str(backup))
        check(status == 0, f"the backup is restored on gpu3 {error}")
        came, how = borrows(gpu1, alice, "-m", "256")
        check(came and "pool" not in limits(gpu2), f"and holds on all servers {how} {limits(gpu2)}")
        backup.write_text("{}")
        nonsense = gpu1.bf("restore", str(backup))
        check(nonsense[0] == 1 and limits(gpu1).get("client:alice") == 1.25, f"a damaged file changes nothing {nonsense} {limits(gpu1)}")

        second = gpu2.bf("cluster", "init")
        check("part of a managed pool already" in second[2], f"no pool within a pool {second}")
        full, ill, seconds = pool.until(lambda: ill_members(gpu1), lambda ill: not ill)
        check(full, f"gpu2 runs a member of etcd again, {seconds:.1f} s later {ill}")
        left = gpu3.bf("cluster", "leave")  # may take some seconds: for etcd gpu2's member has to be there for a while
        check(left == (0, "gpu3 has left the pool.\n", "") and not gpu3.status().get("managed"), f"gpu3 leaves {left}")
        gone, status, seconds = pool.until(gpu1.status, lambda status: len(status["servers"]) == 2 and len(status["etcd"]) == 2)
        check(gone, f"two are left, {seconds:.1f} s later {status}")
        came, how = borrows(gpu3, alice, "-m", "256")
        check(came, f"and it still knows the tokens, by itself {how}")
        behind = [name for name in ("etcd", "cluster.json") if (gpu3.folder / "state" / name).exists()]
        check(not behind, f"nothing of etcd stays behind {behind}")

        # It joins again as a new server does, and another is gone for good.
        joined = gpu3.bf("cluster", "join", gpu1.address, *address(3))
        check(joined[0] == 0 and "run its etcd" in joined[1], f"gpu3 joins again {joined}")
        full, ill, seconds = pool.until(lambda: ill_members(gpu1), lambda ill: not ill)
        check(full, f"and runs a member of etcd, {seconds:.1f} s later {ill}")
        gpu2.kill()
        gone = gpu1.bf("cluster", "leave", "gpu2")
        check(gone == (0, "gpu2 has left the pool.\n", ""), f"gpu2 is gone for good {gone}")
        full, status, seconds = pool.until(gpu1.status, lambda status: [member["well"] for member in status["etcd"]] == [True, True] and len(status["servers"]) == 2)
        check(full, f"gpu1 and gpu3 are the pool, {seconds:.1f} s later {status if not full else ''}")
        came, how = borrows(gpu3, alice, "-p", "1")
        check(came, f"all that alice may hold is free {how}")

        # It was not gone for good: it is a server of the pool like any other, without a member of etcd.
        gpu2.start()
        check(gpu2.ready(), "gpu2 comes back")
        back, status, seconds = pool.until(gpu1.status, lambda status: len(status["servers"]) == 3 and len(status["etcd"]) == 2)
        gone, there, more = pool.until(lambda: (gpu2.folder / "state/etcd").exists(), lambda there: not there)
        check(back and gone and gpu2.status().get("managed"), f"it is part of the pool {seconds:.1f} s later, without etcd after {more:.1f} s {status}")
        came, how = borrows(gpu2, alice, "-p", "1")
        check(came, f"and lends {how}")
finish(check)
