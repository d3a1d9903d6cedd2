#!/usr/bin/env python3
"""Partitions on a real card: four leases of a quarter each, filled at the same time by PyTorch training in each; a fifth
request; what torch, CUDA, NVML, nvidia-smi and the server's ledger say of one lease's memory at one moment; and what a tenant
finds in memory that another had.

  partitions.py --build BUILD

Prints one line per check; ends with status 1 if one failed, 0 without a GPU or PyTorch. Also run by run.py, which gives it
the card for itself."""

import argparse
import importlib.util
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness
import nvml

MIB = 1 << 20
TENANTS = 4


class Tenant:
    """A program under a lease of its own, which says JSON lines and waits for a word."""

    def __init__(self, server, script, *arguments, memory_mib, transport="auto"):
        command = server.bfrun([sys.executable, HERE / "frameworks" / script, *arguments], transport, memory_mib=memory_mib, options=["--timeout", "60"])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=harness.clean_environment())

    def said(self, seconds=90):
        """The next line, or None where there is none in time."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        return json.loads(line) if line.startswith(b"{") else None

    def go_on(self):
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def end(self):
        """Exit status and the end of standard error."""
        try:
            errors = self.process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            errors = self.process.communicate()[1]
        return self.process.returncode, errors.decode(errors="replace")[-300:].replace("\n", " | ")


def bf(server, *words):
    done = subprocess.run([str(server.build.bin / "bf"), *words, "--server", server.address], capture_output=True, text=True, timeout=30, env=harness.clean_environment())
    return json.loads(done.stdout)


def card():
    """[used, total] in MiB, as the host's own nvidia-smi says."""
    return [int(value) for value in nvml.host(["--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits", "-i", "0"]).stdout.split(",")]


def quarters(check, server):
    share = server.free_mib()[0] // TENANTS
    start = time.monotonic()
    tenants = [Tenant(server, "torch_fill.py", memory_mib=share, transport=("tcp", "shm")[i % 2]) for i in range(TENANTS)]
    full = [tenant.said() for tenant in tenants]
    for i, figures in enumerate(full):
        check(figures is not None and figures["total"] == share * MIB and figures["free"] <= 512 * MIB,
              f"tenant {i + 1} has filled its {share} MiB: {figures and {name: value // MIB for name, value in figures.items()}}", "partitions")
    leases = [lease for lease in bf(server, "leases", "--json")["leases"] if lease["state"] == "active"]
    check(len(leases) == TENANTS and all(gpu["memory_mib"] == share for lease in leases for gpu in lease["gpus"]), f"the ledger has {len(leases)} leases of {share} MiB", "partitions")
    used, total = card()
    check(used <= total, f"the card holds {used} of {total} MiB with all partitions full", "partitions")
    fifth = subprocess.run(server.bfrun(["true"], memory_mib=share, options=["--timeout", "0"]), capture_output=True, text=True, timeout=30, env=harness.clean_environment())
    check(fifth.returncode == 75 and "busy" in fifth.stderr, f"a fifth request is refused at once: status {fifth.returncode}: {fifth.stderr.strip()}", "partitions")
    waits = subprocess.Popen(server.bfrun(["true"], memory_mib=share, options=["--timeout", "120"]), stderr=subprocess.DEVNULL, env=harness.clean_environment())
    for tenant in tenants:
        tenant.go_on()
    ends = [tenant.said() for tenant in tenants]
    most = card()[0]
    for i, (tenant, end) in enumerate(zip(tenants, ends)):
        status, errors = tenant.end()
        good = status == 0 and end is not None and end["falls"] and end["untouched"] and end["beyond"] == "OutOfMemoryError"
        check(good, f"tenant {i + 1} trains on in a full partition, and gets no more than it: status {status}, {end} {'' if good else errors}", "partitions")
    check(most <= total, f"the card held {most} of {total} MiB after more training, {time.monotonic() - start:.0f} s in all", "partitions")
    try:
        check(waits.wait(timeout=120) == 0, "a fifth request that waits gets its turn", "partitions")
    except subprocess.TimeoutExpired:
        waits.kill()
        check(False, "a fifth request that waits gets its turn", "partitions")


def figures(check, server):
    """One lease's memory, by everybody who can be asked."""
    for transport in ("tcp", "shm"):
        tenant = Tenant(server, "memory_figures.py", nvml.smi_path(), memory_mib=8192, transport=transport)
        said = tenant.said()
        leases = bf(server, "leases", "--json")["leases"]
        tenant.go_on()
        status, errors = tenant.end()
        if not check(status == 0 and said is not None, f"{transport}: the program ran: status {status} {errors}", "memory figures"):
            continue
        totals = {"torch": said["torch"][1], "cudaMemGetInfo": said["cudaMemGetInfo"][1], "cuMemGetInfo": said["cuMemGetInfo"][1], "cuDeviceTotalMem": said["cuDeviceTotalMem"],
                  "nvidia-smi": said["nvidia-smi"][0] * MIB, "ledger": sum(gpu["memory_mib"] for lease in leases for gpu in lease["gpus"]) * MIB}
        free = {"torch": said["torch"][0], "cudaMemGetInfo": said["cudaMemGetInfo"][0], "cuMemGetInfo": said["cuMemGetInfo"][0]}
        if "pynvml" in said:
            totals["pynvml"], free["pynvml"] = said["pynvml"][0], said["pynvml"][2]
        check(set(totals.values()) == {8192 * MIB}, f"{transport}: total: {totals}", "memory figures")
        check(len(set(free.values())) == 1 and said["torch"][0] <= 7168 * MIB, f"{transport}: free: {free}", "memory figures")
        check(abs(said["nvidia-smi"][1] - (8192 - said["torch"][0] // MIB)) <= 1 and abs(said["nvidia-smi"][2] - said["torch"][0] // MIB) <= 1,
              f"{transport}: nvidia-smi total, used, free: {said['nvidia-smi']} MiB", "memory figures")
        check(said["count"] == 1 and (said["load"] is None or 0 <= said["load"] <= 100), f"{transport}: torch counts {said['count']} GPU, load {said['load']} %", "memory figures")


def leftovers(check, server):
    """A tenant fills all memory and ends in one way or another; the next looks for what it wrote."""
    share = server.free_mib()[0]
    for killed in (False, True):
        tenant = Tenant(server, "leftovers.py", "fill", memory_mib=share)
        filled = tenant.said()
        if killed and filled:
            os.kill(filled["pid"], signal.SIGKILL)
        tenant.go_on()
        tenant.end()
        heir = Tenant(server, "leftovers.py", "scan", memory_mib=share)
        seen = heir.said()
        status, errors = heir.end()
        check(filled is not None and seen is not None and seen["looked"] > 0 and seen["found"] == 0,
              f"nothing is left of a tenant that {'was killed' if killed else 'ended'}: {filled}, then {seen}, status {status} {errors}", "leftovers")


def run_all(check, server):
    with nvml.told(check, "leftovers"):
        leftovers(check, server)
    if importlib.util.find_spec("torch") is None:
        return check.skip("PyTorch is not installed", "partitions")
    for part in (figures, quarters):
        with nvml.told(check, part.__name__):
            part(check, server)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    arguments = parser.parse_args()
    if harness.gpu_name() is None or importlib.util.find_spec("torch") is None:
        print("skipped: there is no GPU here, or no PyTorch")
        return 0
    check = nvml.Report()
    with harness.Server(harness.Build(arguments.build), software_gpus=0) as server:
        run_all(check, server)
    print(f"{check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
