#!/usr/bin/env python3
"""NVML on a host with a real GPU: every form of nvidia-smi under bfrun, its figures beside the host's own and beside CUDA's,
pynvml's read-only functions walked on both sides, and what a crowd of watchers costs the server. What PyTorch says of the
same memory is in partitions.py.

  nvml.py --build BUILD [--only forms agree compare walk cost] [--clients 100] [--seconds 20]

Prints one line per check; ends with status 1 if one failed, 0 without a GPU. Also run by run.py."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness
import programs

MIB = 1 << 20
PROBE = HERE.parent / "e2e" / "nvml_probe.py"
WALK = HERE / "nvml_walk.py"
SETTINGS = {**programs.DEFAULTS, "timeout": 120}
QUERY = "--query-gpu=name,uuid,serial,pci.bus_id,driver_version,vbios_version,temperature.gpu,power.draw,power.limit,clocks.sm,clocks.mem,ecc.mode.current,memory.total,memory.used,pstate,utilization.gpu"
# Every form that people and programs use -> what its output must contain under `bfrun -m 2048`.
FORMS = {
    "table": ([], r"/\s+2048MiB"),
    "-L": (["-L"], r"^GPU 0: .*\(UUID: GPU-[0-9a-f-]{36}\)$"),
    "-q": (["-q"], r"Total\s+: 2048 MiB"),
    "-x": (["-x", "-q"], r"<total>2048 MiB</total>"),
    "--query-gpu": ([QUERY, "--format=csv"], r", 2048 MiB, "),
    "--query-compute-apps": (["--query-compute-apps=pid,name,used_memory", "--format=csv"], r"^pid, process_name"),
    "--query-supported-clocks": (["--query-supported-clocks=mem,gr", "--format=csv"], r"MHz"),
    "dmon": (["dmon", "-c", "2"], r"^\s+0\s+\d+\s+\d+"),
    "topo": (["topo", "-m"], r"GPU0"),
    "-i": (["-i", "0"], r"/\s+2048MiB"),
}
# Fields of -q that are the lease's, or change from one moment to the next: not compared with the host's.
OURS = re.compile(r"Timestamp|FB Memory|BAR1|Total|Used|Free|Reserved|Process|Name\s+: (python|.*bfworker)|Type\s+: C|Throughput|Draw|Temp|T\.Limit|Replays|GPU Part|Sparse|Deferred|"
                  r"instance ID|Utilization|GPU\s+:|Memory\s+: \d|Graphics|SM\s|Video|Performance State|Idle|SW |HW |Sync Boost|Attached|Minor")


class Report:
    """Counts and prints checks, or hands them to `add(name, verdict, text)`."""

    def __init__(self, add=None):
        self.failed = 0
        self.add = add or (lambda name, verdict, text: print(f"{verdict}  {text}", flush=True))

    def __call__(self, good, text, name="nvml"):
        self.failed += not good
        self.add(name, "pass" if good else "FAIL", text)
        return good

    def skip(self, text, name):
        self.add(name, "skip", text)


@contextlib.contextmanager
def told(check, name):
    """What goes wrong inside is a failed check, not the end of the run."""
    try:
        yield
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        check(False, f"{name} ended with {error!r}", name)


def smi_path():
    return shutil.which("nvidia-smi")


def host(arguments):
    return subprocess.run([smi_path(), *arguments], capture_output=True, text=True, env=harness.clean_environment(), timeout=60)


def forms(check, server):
    for name, (arguments, pattern) in FORMS.items():
        run = server.run([smi_path(), *arguments], SETTINGS, memory_mib=2048)
        text = run.stdout.decode(errors="replace")
        good = run.status == 0 and re.search(pattern, text, re.M) is not None and "N/A MiB" not in text
        check(good, f"nvidia-smi {name}: status {run.status}" + ("" if good else ": " + text[-400:].replace("\n", " | ")), "nvidia-smi")
    process = subprocess.Popen(server.bfrun([smi_path(), "-l", "1"], memory_mib=2048), stdout=subprocess.PIPE, env=harness.clean_environment())
    time.sleep(3.5)
    process.terminate()
    tables = process.communicate(timeout=10)[0].count(b"2048MiB")
    check(tables >= 3, f"nvidia-smi -l 1: {tables} tables in 3.5 s", "nvidia-smi")
    run = server.run([server.build.bin / "bf", "smi", "--json"], SETTINGS, memory_mib=2048)
    gpus = json.loads(run.stdout)["gpus"] if run.status == 0 else []
    check([gpu["memory_mib"] for gpu in gpus] == [2048], f"bf smi --json inside a lease: status {run.status}, {gpus}", "nvidia-smi")


def compare(check, server):
    """The card's own fields: the host's nvidia-smi beside ours."""
    run = server.run([smi_path(), QUERY, "--format=csv,noheader,nounits"], SETTINGS, memory_mib=2048)
    mine = [field.strip() for field in run.stdout.decode().strip().split(",")]
    theirs = [field.strip() for field in host([QUERY, "--format=csv,noheader,nounits"]).stdout.strip().split(",")]
    names = QUERY.split("=")[1].split(",")
    check(len(mine) == len(theirs) == len(names), f"--query-gpu: {mine}", "nvml compare")
    for name, ours, other in zip(names, mine, theirs):
        if name == "memory.total":
            check(ours == "2048", f"{name}: {ours} here, {other} on the host", "nvml compare")
        elif name == "temperature.gpu":
            check(abs(float(ours) - float(other)) <= 2, f"{name}: {ours} and {other}", "nvml compare")
        elif name == "power.draw":
            check(abs(float(ours) - float(other)) <= 0.1 * float(other), f"{name}: {ours} and {other}", "nvml compare")
        elif name not in ("memory.used", "utilization.gpu", "clocks.sm", "pstate"):
            check(ours == other, f"{name}: {ours} and {other}", "nvml compare")
    ours = [line for line in server.run([smi_path(), "-q"], SETTINGS, memory_mib=2048).stdout.decode().splitlines() if not OURS.search(line)]
    other = [line for line in host(["-q"]).stdout.splitlines() if not OURS.search(line)]
    differing = [f"{a.strip()} / {b.strip()}" for a, b in zip(ours, other) if a != b]
    check(len(ours) == len(other) and not differing, f"nvidia-smi -q, the card's fields: {len(ours)} lines and {len(other)}; differing: {differing[:10]}", "nvml compare")


def agree(check, server):
    for transport in ("tcp", "shm"):
        run = server.run([sys.executable, PROBE], SETTINGS, transport, memory_mib=2048)
        if not check(run.status == 0, f"{transport}: the probe ran: {run.stderr.decode()[-200:]}", "nvml agree"):
            continue
        report = json.loads(run.stdout)
        device = report["devices"][0]
        check(report["counts"] == [1, 1] and device["uuid"][0] == device["uuid"][1] and device["name"][0] == device["name"][1], f"{transport}: one GPU, {device['uuid']}", "nvml agree")
        check(device["power_limits"][0] == device["power_limits"][1] > 0, f"{transport}: power limits by function and by field {device['power_limits']}", "nvml agree")
        check(device["total"] == 2048 * MIB, f"{transport}: cuDeviceTotalMem {device['total'] // MIB} MiB", "nvml agree")
        for moment in ("before", "after"):
            check(device[moment]["nvml"]["v1"] == device[moment]["cuda"] == device[moment]["nvml"]["v2"], f"{transport}: {moment}: {device[moment]}", "nvml agree")
        pids = [process["pid"] for process in device["processes"]]
        check(pids == [report["pid"]], f"{transport}: processes {device['processes']}", "nvml agree")
    others = [[sys.executable, str(PROBE), "512", "15"], server.bfrun([sys.executable, PROBE, "512", "15"], memory_mib=2048)]
    strangers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=harness.clean_environment()) for command in others]
    for stranger in strangers:
        stranger.stdout.readline()
    run = server.run([smi_path(), "--query-compute-apps=pid", "--format=csv,noheader"], SETTINGS, memory_mib=2048)
    check(run.status == 0 and run.stdout.strip() == b"", f"processes of the host and of another lease are invisible: {run.stdout}", "nvml agree")
    run = server.run([smi_path(), "--query-gpu=memory.used", "--format=csv,noheader,nounits"], SETTINGS, memory_mib=2048)
    check(run.status == 0 and run.stdout.strip() == b"0", f"and so is their memory: {run.stdout} MiB used", "nvml agree")
    for stranger in strangers:
        stranger.terminate()
        stranger.wait()


def walk(check, server):
    """Kinds of answer, function by function: natively as an ordinary user, and under bfrun."""
    demote = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 and shutil.which("setpriv") else []
    native = subprocess.run([*demote, sys.executable, "-c", WALK.read_text()], capture_output=True, text=True, env=harness.clean_environment(), timeout=120)
    remote = server.run([sys.executable, WALK], SETTINGS, memory_mib=2048)
    if not check(native.returncode == 0 and remote.status == 0, f"walks ran: {native.returncode}, {remote.status} {native.stderr[-200:]} {remote.stderr.decode()[-200:]}", "nvml walk"):
        return
    theirs, ours = json.loads(native.stdout), json.loads(remote.stdout)
    differing = {name: [theirs[name], ours[name]] for name in theirs if theirs[name] not in ("crash", ours.get(name))}
    documented = (HERE.parent.parent / "docs" / "nvml.md").read_text() if (HERE.parent.parent / "docs" / "nvml.md").exists() else ""
    allowed = set(re.findall(r"`(nvml\w+)`", documented))
    unexplained = {name: kinds for name, kinds in differing.items() if name.split("(")[0] not in allowed}
    check(not unexplained, f"{len(theirs)} answers, {len(differing)} of another kind, {len(unexplained)} of them not in docs/nvml.md: {unexplained}", "nvml walk")


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def cost(check, server, clients, seconds):
    """`clients` times nvidia-smi -l 1: what bfserver and its monitor spend, per second."""
    share = min(1024, server.free_mib()[0] // clients)
    watchers = [subprocess.Popen(server.bfrun([smi_path(), "-l", "1"], memory_mib=share), stdout=subprocess.DEVNULL, env=harness.clean_environment()) for _ in range(clients)]
    time.sleep(8)
    alive = sum(watcher.poll() is None for watcher in watchers)
    monitors = [pid for pid in server.children() if b"--monitor" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
    before = [cpu_seconds([server.process.pid]), cpu_seconds(monitors)]
    time.sleep(seconds)
    after = [cpu_seconds([server.process.pid]), cpu_seconds(monitors)]
    for watcher in watchers:
        watcher.terminate()
    for watcher in watchers:
        watcher.wait()
    spent = [100 * (b - a) / seconds for a, b in zip(before, after)]
    check(alive == clients, f"{alive} of {clients} watchers are at work", "nvml cost")
    check(sum(spent) < 1.0 * max(1, clients / 100), f"{clients} x nvidia-smi -l 1: bfserver {spent[0]:.2f} %, monitor {spent[1]:.2f} % of a core", "nvml cost")


def run_all(check, server, only=(), clients=100, seconds=20):
    if smi_path() is None:
        return check.skip("nvidia-smi is not on the PATH", "nvml")
    cases = {"forms": forms, "compare": compare, "agree": agree, "walk": walk, "cost": lambda check, server: cost(check, server, clients, seconds)}
    for name, case in cases.items():
        if not only or name in only:
            with told(check, f"nvml {name}"):
                case(check, server)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20, help="how long the cost of watchers is measured")
    parser.add_argument("--software", type=int, default=0, help="on that many software GPUs (nvidia-smi must be on the PATH)")
    arguments = parser.parse_args()
    if harness.gpu_name() is None and not arguments.software:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 0
    check = Report()
    with harness.Server(harness.Build(arguments.build), software_gpus=arguments.software) as server:
        run_all(check, server, arguments.only, arguments.clients, arguments.seconds)
    print(f"{check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
