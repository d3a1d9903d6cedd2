#!/usr/bin/env python3
"""Many clients race for a managed pool while clients, workers, servers and members of its etcd are killed at random. Afterwards, from
the audit logs: no GPU was ever promised twice, no limit of a client or a group was ever passed anywhere in the pool, every lease
that began has ended; from the workers' ledgers, read all the while: never more in use than there is; and every request ended in
success, a stated refusal or its time-out. BF_E2E_FULL=1: five servers, 40 clients, ten minutes."""

import collections
import datetime
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pool  # noqa: E402
from pool import harness  # noqa: E402
import audit  # noqa: E402
from checks import FULL, Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()
pool.need_etcd()
SERVERS, CLIENTS, SECONDS = (5, 40, 600) if FULL else (3, 12, 20)
MEMORY_MIB = 2048
PER_CLIENT, PER_GROUP = 1.25, SERVERS * 1.0  # GPUs, of two on each server; in halves and quarters, which add up exactly
chance = random.Random(os.environ.get("BF_E2E_SEED", "backfield"))
quota = build.program("quota")
endings = collections.Counter()
unexplained, overfull = [], []
running, lock = set(), threading.Lock()
deaths = []  # (time, name): a server was killed, and everything on it ended


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def one_request(servers, number, token):
    mib = chance.choice([512, 1024, 2048])
    share = chance.choice([["-m", str(mib)], ["-p", str(mib / MEMORY_MIB)], ["-n", "2", "-m", "512"]])
    program = [str(quota), "hold", str(256 << 20), "1"] if quota.exists() and chance.random() < 0.3 else ["sleep", f"{chance.uniform(0.05, 1.0):.2f}"]
    words = [str(build.bin / "bfrun"), *[w for s in servers for w in ("--server", s)], *share, "--policy", chance.choice(["auto", "pack", "spread"]),
             "--timeout", str(chance.choice([0, 1, 5])), "--", *program]
    start = time.monotonic()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env={**harness.clean_environment(), "BF_TOKEN_FILE": str(token)}, start_new_session=True)
    with lock:
        running.add(process)
    try:
        error = process.communicate(timeout=90)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        error, endings["hung"] = process.communicate()[1], endings["hung"] + 1
    with lock:
        running.discard(process)
    status = process.returncode
    # A program whose server died ends with a CUDA error of its own: any status will do, if bfrun says so.
    explained = status in (0, -signal.SIGKILL) or (status == 75 and "busy" in error) or (status == 125 and "no server" in error) or "ended the lease" in error
    kind = "success" if status == 0 else "killed" if status == -signal.SIGKILL else "server lost" if status != 75 and explained else \
        "unexplained" if not explained else "no majority" if "no majority" in error else "limit" if "the limit" in error else "busy"
    endings[kind] += 1
    if not explained:
        unexplained.append(f"client {number}: {' '.join(words)} ended with {status} after {time.monotonic() - start:.1f} s: {error}")


def client(servers, number, token, until):
    while time.monotonic() < until:
        one_request(servers, number, token)


def kill_something(servers, etcd):
    what, victim = chance.random(), chance.choice(servers)
    if what < 0.5:
        with lock:
            target = chance.choice(sorted(running, key=id)) if running else None
        if target is not None:
            target.send_signal(signal.SIGKILL)
    elif what < 0.8:
        workers = victim.children()
        try:
            if workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            pass
    elif what < 0.87:
        victim.kill()
        deaths.append((now(), victim.name))
        time.sleep(chance.uniform(0.1, 2))
        victim.start()
        endings["server restarts"] += 1
    else:
        members = chance.sample(range(3), chance.choice([1, 1, 1, 2]))
        for member in members:
            etcd.stop(member)
        time.sleep(chance.uniform(0.5, 4))
        for member in members:
            etcd.start(member)
        endings[f"times {len(members)} etcd members stopped"] += 1


def trouble(servers, etcd, until):
    while time.monotonic() < until - 5:
        time.sleep(chance.uniform(0.3, 1.5))
        kill_something(servers, etcd)


def watch_ledgers(servers, until):
    """What the workers' ledgers say is in use, all the while."""
    while time.monotonic() < until:
        time.sleep(1)
        for server in servers:
            status, text, _ = server.bf("smi", "--json")
            for gpu in [gpu for one in json.loads(text).get("servers", []) for gpu in one.get("gpus", [])] if status == 0 else []:
                endings["ledgers read"] += 1
                if gpu["used_mib"] > MEMORY_MIB:
                    overfull.append((server.name, gpu))


def judge_limits(servers):
    """The most that a client and the group ever held in the whole pool, by all audit logs together."""
    story = [(when, 0, "killed", name, {}) for when, name in deaths]
    for server in servers:
        story += [(event["time"], 0 if event["event"] == "lease-ended" else 1, event["event"], server.name, event) for event in audit.events(server.audit)]
    held, most_client, most_group = {}, 0, 0
    for _, _, what, server, event in sorted(story, key=lambda entry: entry[:2]):
        if what == "killed":
            held = {lease: entry for lease, entry in held.items() if entry[0] != server}
        elif what == "lease":
            held[event["lease"]] = (server, event["client"], len(event["gpus"].split(",")) * event["mib"] / MEMORY_MIB)
            sums = collections.Counter()
            for _, owner, gpus in held.values():
                sums[owner] += gpus
            most_client, most_group = max(most_client, *sums.values()), max(most_group, sum(sums.values()))
        elif what == "lease-ended":
            held.pop(event["lease"], None)
    return most_client, most_group


with tempfile.TemporaryDirectory() as folder:
    etcd = pool.Etcd(folder)
    etcd.start_all()
    servers = pool.make_pool(build, folder, SERVERS, lambda i: ["--etcd", ",".join(etcd.urls)], software_memory_mib=MEMORY_MIB)
    try:
        tokens = [pool.use_token(servers[0], f"client{i}", "--group", "lab") for i in range((CLIENTS + 1) // 2)]
        for scope, gpus in (("client", PER_CLIENT), ("group:lab", PER_GROUP)):
            check(servers[0].bf("limit", "set", scope, "--gpus", str(gpus))[0] == 0, f"the limit of {scope} is {gpus} GPUs")
        until = time.monotonic() + SECONDS
        addresses = [server.address for server in servers]
        threads = [threading.Thread(target=client, args=(addresses, i, tokens[i // 2], until)) for i in range(CLIENTS)]
        threads += [threading.Thread(target=trouble, args=(servers, etcd, until)), threading.Thread(target=watch_ledgers, args=(servers, until))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(dict(endings))
        check(endings["success"] > CLIENTS / 2, f"{endings['success']} requests succeeded")
        check(endings["hung"] == 0, "none hung")
        check(not unexplained, f"every ending is explained {unexplained[:3]}")
        check(not overfull and endings["ledgers read"] > 0, f"no ledger ever said more than there is, in {endings['ledgers read']} looks {overfull[:3]}")
        nothing, seconds = harness.wait_for(lambda: servers[0].claims() == 0, 60, 0.5)
        check(nothing, f"no claim leaked in etcd, {seconds:.1f} s later: {servers[0].status().get('servers')}")
        for server in servers:
            check(server.ready(), f"{server.name} lives")
            gpus = lambda: [gpu for one in json.loads(server.bf("list", "--json")[1])["servers"] for gpu in one["gpus"]]  # noqa: E731
            check(harness.wait_for(lambda: all(gpu["free_mib"] == gpu["memory_mib"] for gpu in gpus()), 15, 0.3)[0], f"{server.name}: all memory is free")
            wrong, began, ended = audit.judge(server.audit, MEMORY_MIB)
            check(not wrong, f"{server.name}: {began} leases began, {ended} ended; {wrong[:3]}")
        client_most, group_most = judge_limits(servers)
        check(client_most <= PER_CLIENT, f"no client ever held more than {client_most} of {PER_CLIENT} GPUs, over all servers")
        check(group_most <= PER_GROUP, f"the group never held more than {group_most} of {PER_GROUP} GPUs")
    finally:
        for server in servers:
            server.stop()
        if check.failed:
            for server in servers:
                print(f"--- {server.name}\n{server.log_text(60)}")
finish(check)
