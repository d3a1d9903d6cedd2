#!/usr/bin/env python3
"""Many sessions on one GPU: are the active ones as fast as as many native processes that share it, while others only are
attached, and what do those cost?

  sessions.py --build BUILD [--active 8] [--idle 56] [--seconds 4] [--runs 3] [--transport tcp]

Prints what was measured; status 1 if a process failed. Without a GPU it says so and ends with status 0; --software-gpu shows
that it works, and nothing of speed."""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness
from nvml import cpu_seconds

START_S = 6  # until all have begun


def resident_mib(pids):
    """The median of what the processes have in memory, in MiB."""
    found = [re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return statistics.median(int(match[1]) / 1024 for match in found if match)


def rates(commands, environment):
    """Steps per second of each command, all at the same time."""
    start = str(time.time() + START_S)
    running = [subprocess.Popen([start if word == "START" else word for word in command], stdout=subprocess.PIPE, text=True, env=environment) for command in commands]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a process failed: {said}")
    return [float(text.split()[0]) for text in said]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--active", type=int, default=8)
    parser.add_argument("--idle", type=int, default=56)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--transport", default="tcp")
    parser.add_argument("--software-gpu", action="store_true")
    arguments = parser.parse_args()
    if not arguments.software_gpu and harness.gpu_name() is None:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 0
    build = harness.Build(arguments.build)
    share = str(build.root / "bench" / "share")
    work = [share, "work", "START", str(arguments.seconds), "1" if arguments.software_gpu else "264"]
    environment = harness.clean_environment()
    native_environment = {**environment, "LD_LIBRARY_PATH": str(build.software)} if arguments.software_gpu else environment
    with harness.Server(build, software_gpus=1 if arguments.software_gpu else 0) as server:
        memory_mib = server.free_mib()[0] // (arguments.active + arguments.idle)
        through = lambda command: server.bfrun(command, arguments.transport, memory_mib=memory_mib)
        with subprocess.Popen([share, "idle", "3600"], stdout=subprocess.PIPE, text=True, env=native_environment) as alone:
            alone.stdout.readline()
            native_mib = resident_mib([alone.pid])
            alone.terminate()
        idle = [subprocess.Popen(through([share, "idle", "3600"]), stdout=subprocess.PIPE, text=True, env=environment) for _ in range(arguments.idle)]
        try:
            said = [process.stdout.readline() for process in idle]
            if any(line != "ready\n" for line in said):
                raise SystemExit(f"idle sessions did not start: {sorted(set(said))}")
            time.sleep(2)
            workers, runners = server.children(), [process.pid for process in idle]
            programs = [pid for runner in runners for pid in harness.descendants(runner)]
            sides = workers, runners + programs
            before = [cpu_seconds(side) for side in sides]
            time.sleep(arguments.seconds)
            spent = [100 * (cpu_seconds(side) - start) / arguments.seconds for side, start in zip(sides, before)]
            print(f"resident: a process with its driver {native_mib:.0f} MiB; through bfrun it has {resident_mib(programs):.0f} MiB, its worker {resident_mib(workers):.0f} MiB (medians)")
            print(f"{arguments.idle} idle sessions of {memory_mib} MiB over {arguments.transport} cost {spent[0]:.2f} % of a core in {len(workers)} processes of the server, {spent[1]:.2f} % in theirs")
            native, remote = [], []
            for _ in range(arguments.runs):
                native.append(sum(rates([work] * arguments.active, native_environment)))
                remote.append(sum(rates([through(work)] * arguments.active, environment)))
        finally:
            for process in idle:
                process.terminate()
            for process in idle:
                process.wait()
    there, here = statistics.median(native), statistics.median(remote)
    print(f"{arguments.active} processes that share the GPU, steps/s together, medians of {arguments.runs}: native {there:.1f} {[round(x, 1) for x in native]}, "
          f"beside the idle sessions {here:.1f} {[round(x, 1) for x in remote]}, ratio {here / there:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
