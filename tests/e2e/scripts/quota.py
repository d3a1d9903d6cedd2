"""Memory: a program gets exactly its partition; programs under one lease share it; leases on one GPU never exceed it."""

import re
import subprocess

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import FULL, Checks, build_from_arguments, finish

MIB = 1 << 20
build, check = build_from_arguments(), Checks()
settings = programs.DEFAULTS


def account(run):
    return {name: int(value) for name, value in re.findall(r"^([a-z ]+) (\d+)$", run.stdout.decode(), re.M)}


def start(server, *words, memory_mib=2048):
    return subprocess.Popen(server.bfrun(words, memory_mib=memory_mib), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=harness.clean_environment())


with harness.Server(build, software_gpus=1, software_memory_mib=4096) as server:
    quota = build.program("quota")
    for transport in ("tcp", "shm"):
        for memory_mib in (2048, 512, 1001):
            run = server.run([quota], settings, transport, memory_mib=memory_mib)
            numbers = account(run)
            check(run.status == 0 and b"exact: yes" in run.stdout, f"{memory_mib} MiB over {transport}: total, free and the end of memory agree {'' if run.status == 0 else run.stdout + run.stderr}")
            check(numbers.get("total") == memory_mib * MIB, f"  total is {numbers.get('total')} bytes")

    # Processes of one lease share its memory; what a killed one held is free again within 2 s.
    script = f'''"{quota}" hold {1400 * MIB} 30 & holder=$!
        until "{quota}" hold {MIB} 0 >/dev/null && sleep 0.3 && ! "{quota}" hold {1400 * MIB} 0 >/dev/null; do sleep 0.1; done
        "{quota}" hold {400 * MIB} 0
        kill -9 $holder; start=$(date +%s%N)
        until "{quota}" hold {1400 * MIB} 0 >/dev/null; do :; done
        echo back $(( ($(date +%s%N) - start) / 1000000 ))'''
    run = server.run(["bash", "-c", script], {**settings, "timeout": 60})
    check(run.stdout.startswith(b"hold: cudaSuccess\nback ") or b"hold: cudaSuccess\nback" in run.stdout, f"programs of one lease share it: {run.status} {run.stdout}")
    back = re.search(rb"back (\d+)", run.stdout)
    check(back and int(back[1]) < 2000, f"memory of a killed program came back after {back[1].decode() if back else '?'} ms (with the time of one more program's start)")

    # Two leases fill the card exactly; a third one waits or is refused, and never takes from them.
    holders = [start(server, quota, "hold", str(1800 * MIB), "20") for _ in range(2)]
    for holder in holders:
        check(holder.stdout.readline() == b"hold: cudaSuccess\n", "one of two leases holds 1800 of its 2048 MiB")
    third = subprocess.run([*server.bfrun([quota, "hold", str(MIB), "0"], memory_mib=512, options=["--timeout", "1"])], capture_output=True, env=harness.clean_environment(), timeout=30)
    check(third.returncode == 75 and third.stderr, f"a third lease is refused when its time is over: {third.returncode} {third.stderr[-160:]}")
    never = subprocess.run(server.bfrun([quota], memory_mib=100_000), capture_output=True, env=harness.clean_environment(), timeout=30)
    check(never.returncode == 125 and never.stderr, f"what no server could ever give fails at once: {never.returncode} {never.stderr[-160:]}")
    for holder in holders:
        holder.kill()
        holder.wait()
    came_back, seconds = harness.wait_for(lambda: server.free_mib() == server.idle_mib, 5)
    check(came_back and seconds < 2, f"memory of killed leases is free again after {seconds:.2f} s")
    whole = server.run([quota], {**settings, "timeout": 120}, memory_mib=4096)
    check(whole.status == 0, f"a whole card: {whole.stdout[-200:] if whole.status else 'exact'}")
finish(check)
