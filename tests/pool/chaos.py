#!/usr/bin/env python3
"""Many clients race for a managed pool while clients, workers, servers and members of its etcd are killed at random. Servers,
members and clients are hosts on a network of their own where one can be made (as root), else all this host. Afterwards, from
the audit logs: no GPU was ever promised twice, no limit of a client or a group was ever passed anywhere in the pool, every lease
that began has ended; from the workers' ledgers, read all the while: never more in use than there is; and every request ended in
success, a stated refusal or its time-out. BF_E2E_FULL=1: five servers, 40 clients, ten minutes."""

import collections
import datetime
import os
import pathlib
import random
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pool  # noqa: E402
import audit  # noqa: E402
from checks import FULL, Checks, build_from_arguments, finish  # noqa: E402
from crowd import Crowd  # noqa: E402
from lan import lan_or_loopback  # noqa: E402

build, check = build_from_arguments(), Checks()
pool.need_etcd()
SERVERS, CLIENTS, SECONDS = (5, 40, 600) if FULL else (3, 12, 20)
MEMORY_MIB = 2048
PER_CLIENT, PER_GROUP = 1.25, SERVERS * 1.0  # GPUs, of two on each server; in halves and quarters, which add up exactly
chance = random.Random(os.environ.get("BF_E2E_SEED", "backfield"))
quota = build.program("quota")
overfull = []
deaths = []  # (time, name): a server was killed, and everything on it ended


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def client(host, crowd, token, until):
    with host.inside():
        while time.monotonic() < until:
            mib = chance.choice([512, 1024, 2048])
            share = chance.choice([["-m", str(mib)], ["-p", str(mib / MEMORY_MIB)], ["-n", "2", "-m", "512"]])
            computes = quota.exists() and chance.random() < 0.3
            crowd.request(share, [str(quota), "hold", str(256 << 20), "1"] if computes else ["sleep", f"{chance.uniform(0.05, 1.0):.2f}"], token)


def restart(server, crowd):
    server.kill()
    deaths.append((now(), server.name))
    time.sleep(chance.uniform(0.1, 2))
    server.start()
    crowd.count("kills of servers")


def stop_members(etcd, crowd):
    members = chance.sample(range(3), chance.choice([1, 1, 1, 2]))
    for member in members:
        etcd.stop(member)
    time.sleep(chance.uniform(0.5, 4))
    for member in members:
        etcd.start(member)
    crowd.count("kills of a member of etcd" if len(members) == 1 else "kills of two members of etcd at once")


def trouble(servers, etcd, crowd, until):
    while time.monotonic() < until - 5:
        time.sleep(chance.uniform(0.3, 1.5))
        what, victim = chance.random(), chance.choice(servers)
        if what < 0.5:
            crowd.kill_a_client()
        elif what < 0.8:
            crowd.kill_a_worker(victim)
        elif what < 0.87:
            restart(victim, crowd)
        else:
            stop_members(etcd, crowd)


def watch_ledgers(servers, crowd, until):
    """What the workers' ledgers say is in use, all the while."""
    while time.monotonic() < until:
        time.sleep(1)
        for server in servers:
            for gpu in [gpu for one in server.told("smi").get("servers", []) for gpu in one.get("gpus", [])]:
                crowd.count("looks into ledgers")
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


with tempfile.TemporaryDirectory() as folder, lan_or_loopback(SERVERS + 3 + CLIENTS) as hosts:
    server_hosts, etcd_hosts, client_hosts = hosts[:SERVERS], hosts[SERVERS:SERVERS + 3], hosts[SERVERS + 3:]
    etcd = pool.Etcd(folder, etcd_hosts)
    etcd.start_all()
    servers = pool.make_pool(build, folder, server_hosts, lambda i: ["--etcd", ",".join(etcd.urls)], software_memory_mib=MEMORY_MIB)
    with pool.explained(check, servers, etcd):
        tokens = [pool.use_token(servers[0], f"client{i}", "--group", "lab") for i in range((CLIENTS + 1) // 2)]
        for scope, gpus in (("client", PER_CLIENT), ("group:lab", PER_GROUP)):
            said = servers[0].bf("limit", "set", scope, "--gpus", str(gpus))
            check(said[0] == 0, f"the limit of {scope} is {gpus} GPUs {said[2]}")
        crowd = Crowd(build, [server.address for server in servers], chance)
        print(f"{SERVERS} servers at {', '.join(server.address for server in servers)}, {CLIENTS} clients, {SECONDS} s", flush=True)
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=client, args=(host, crowd, tokens[i // 2], until)) for i, host in enumerate(client_hosts)]
        threads += [threading.Thread(target=trouble, args=(servers, etcd, crowd, until)), threading.Thread(target=watch_ledgers, args=(servers, crowd, until))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        crowd.report(check)
        check(crowd.endings["success"] > CLIENTS / 2, f"{crowd.endings['success']} requests succeeded")
        looks = crowd.endings["looks into ledgers"]
        check(not overfull and looks > 0, f"no ledger ever said more than there is, in {looks} looks {overfull[:3]}")
        nothing, status, seconds = pool.until(servers[0].status, lambda status: status.get("majority") and not any(one["leases"] for one in status["servers"]))
        check(nothing, f"no claim leaked in etcd, {seconds:.1f} s later {status if not nothing else ''}")
        for server in servers:
            check(server.ready(), f"{server.name} lives")
            free, taken, seconds = pool.until(server.unfree, lambda gpus: not gpus)
            check(free, f"{server.name}: all memory is free, {seconds:.1f} s later {taken}")
            wrong, began, ended = audit.judge(server.audit, MEMORY_MIB)
            check(not wrong, f"{server.name}: {began} leases began, {ended} ended; {wrong[:3]}")
        client_most, group_most = judge_limits(servers)
        check(client_most <= PER_CLIENT, f"no client ever held more than {client_most} of {PER_CLIENT} GPUs, over all servers")
        check(group_most <= PER_GROUP, f"the group never held more than {group_most} of {PER_GROUP} GPUs")
finish(check)
