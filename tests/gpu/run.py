#!/usr/bin/env python3
"""Runs everything on a host with a real GPU: framework programs, programs over CUDA's libraries, and every end-to-end
program and example, each natively on the vendor's driver and through bfrun over tcp and shm; before them, alone, what needs
a quiet card: nvidia-smi and NVML (nvml.py), and partitions (partitions.py). Needs a portable build (bin/, lib/backfield/,
e2e/, gpu/), Python 3 and the driver; a framework or a library of the toolkit that is absent is a visible skip.

  run.py --build BUILD                     everything
  run.py --build BUILD --budget 420        what fits into 420 seconds, the most valuable first; the rest is skipped, visibly
  run.py --build BUILD --only torch_ops nvml partitions
  run.py --build BUILD --transports native records what the GPU prints, and compares nothing
  run.py --build BUILD --software-gpu --only events streams
                                           on the software GPU: tries the runner itself, where there is no GPU

Prints a line for each run and for each case that is not a pass; last, 'N passed, M failed, K skipped'. With $OUT set,
$OUT/results.json holds every result, with what the program printed natively (tests/gpu/record.py makes tests/e2e/expected/
from it) and the end of standard error of what failed; $OUT/bfserver.log is the server's log. Without a GPU it says so and
ends with status 0. The cases of one program are compared one by one (results.py)."""

import argparse
import concurrent.futures
import functools
import os
import pathlib
import platform
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]
import harness
import jobs
import nvml
import partitions
import programs
import results

ALONE = ["nvml", "partitions", "quota"]
NO_TIME = 5  # seconds left in which nothing is begun any more


class Runner:
    """Runs jobs until the budget is spent."""

    def __init__(self, build, server, found, transports, budget, software):
        self.build, self.server, self.found, self.transports, self.software = build, server, found, transports, software
        self.end = time.monotonic() + budget

    def left(self):
        return self.end - time.monotonic()

    def natively(self, job):
        path = [self.build.software, *job.library_path] if self.software else job.library_path
        return harness.run_native(job.command, self.within_budget(job), path, job.settings["gpus"])

    def remotely(self, job, transport):
        settings = self.within_budget(job)
        settings["env"] = {**settings["env"], "BF_LOG": "warn"}
        run = self.server.run(job.command, settings, transport, settings["gpus"], memory_mib=job.memory_mib, library_path=job.library_path)
        if isinstance(run.status, int) and run.status > 128:
            run.status = 128 - run.status  # bfrun reports a signal as a shell does
        return run

    def within_budget(self, job):
        return {**job.settings, "timeout": min(job.settings["timeout"], max(self.left(), 1))}

    def cut_off(self, job, run):
        return run.status == "timeout" and run.seconds < job.settings["timeout"]

    def run(self, job):
        """All paths of one job, natively first: that run is the reference, so that a failure leaves nothing to compare."""
        if job.absent:
            return self.found.add(job.name, "native", [("", "skip", job.absent)])
        reference = None
        for path in ["native", *self.transports]:
            if self.left() < NO_TIME:
                self.found.add(job.name, path, [("", "skip", "not run: the budget is spent")])
                continue
            run = self.natively(job) if path == "native" else self.remotely(job, path)
            if self.cut_off(job, run):
                self.found.add(job.name, path, [("", "skip", "cut off: the budget is spent")], run.seconds)
            elif path == "native":
                rows = results.judge_native(job, run)
                self.found.add(job.name, path, rows, run.seconds, results.tail(run), run.stdout if job.strict else None)
                if all(verdict != "pass" for _, verdict, _ in rows):
                    return
                reference = run
            elif reference is not None:
                again = functools.cache(lambda: self.natively(job))
                self.found.add(job.name, path, results.judge_remote(job, run, reference, again), run.seconds, results.tail(run))

    def run_all(self, wanted, parallel):
        """`parallel` jobs at a time, each on leases of its own."""
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            for job, done in [(job, pool.submit(self.run, job)) for job in wanted]:
                if done.exception():
                    self.found.add(job.name, "-", [("", "FAIL", f"the runner: {done.exception()!r}")])


def run_quota(found, server, build, transports):
    """Natively there is no partition, so this one is judged by what it says."""
    for transport in transports:
        run = server.run([build.program("quota")], {**programs.DEFAULTS, "timeout": 120}, transport, memory_mib=2048)
        good = run.status == 0 and b"exact: yes" in run.stdout and b"total 2147483648\n" in run.stdout
        found.add("quota", transport, [("", "pass" if good else "FAIL", "" if good else (run.stdout + run.stderr).decode(errors="replace").replace("\n", " | "))], run.seconds)


def run_alone(arguments, found, server, build, transports):
    """What needs the card for itself, in turn."""
    chosen = [name for name in ALONE if not arguments.only or name in arguments.only]
    if "quota" in chosen:
        run_quota(found, server, build, transports)
    check = nvml.Report(lambda name, verdict, text: found.add(name, "-", [("", verdict, text)]))
    if "nvml" in chosen:
        nvml.run_all(check, server)
    if "partitions" in chosen and not arguments.software_gpu:
        partitions.run_all(check, server)


def finish(found, server):
    if server.process.poll() is not None:
        found.add("bfserver", "-", [("", "FAIL", "ended during the run: " + server.log_text(5))])
    elif found.count("FAIL"):
        print("--- end of the server's log ---\n" + server.log_text(15))
    if os.environ.get("OUT"):
        pathlib.Path(os.environ["OUT"], "bfserver.log").write_text(server.log_text(20000))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="folder with bin/, lib/backfield/, e2e/ and gpu/")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--transports", default="tcp,shm")
    parser.add_argument("--jobs", type=int, default=6, help="how many run at a time (default 6; each may borrow 8 GiB)")
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which nothing new is begun and what runs is stopped")
    parser.add_argument("--no-frameworks", action="store_true")
    parser.add_argument("--software-gpu", action="store_true")
    arguments = parser.parse_args()
    gpu = "software GPU" if arguments.software_gpu else harness.gpu_name()
    if gpu is None:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 0
    build = harness.Build(arguments.build)
    if build.missing():
        print(f"{build.missing()} is missing: name the folder of a portable build (docs/building.md)")
        return 1
    frameworks = set() if not arguments.no_frameworks else jobs.FRAMEWORKS.keys()
    wanted = [job for job in jobs.all_jobs(build) if job.name not in frameworks and (not arguments.only or job.name in arguments.only)]
    unknown = set(arguments.only) - {job.name for job in wanted} - set(ALONE)
    if unknown:
        print(f"there is nothing called {', '.join(sorted(unknown))} in {build.root}")
        return 1
    transports = [t for t in arguments.transports.split(",") if t and t != "native"]
    print(gpu)
    found = results.Results()
    start = time.monotonic()
    try:
        with harness.Server(build, software_gpus=2 if arguments.software_gpu else 0) as server:
            runner = Runner(build, server, found, transports, arguments.budget, arguments.software_gpu)
            if transports:
                run_alone(arguments, found, server, build, transports)
            runner.run_all(wanted, arguments.jobs)
            finish(found, server)
    finally:
        found.save({"gpu": gpu, "versions": jobs.versions(), "host": platform.platform(), "seconds": round(time.monotonic() - start)})
    found.recap()
    print(f"{found.agreeing()} cases gave the same on every path, in {time.monotonic() - start:.0f} s")
    print(f"{found.count('pass')} passed, {found.count('FAIL')} failed, {found.count('skip')} skipped")
    return 1 if found.count("FAIL") else 0


if __name__ == "__main__":
    sys.exit(main())
