#!/usr/bin/env python3
"""Runs everything on a host with a real GPU: every end-to-end program and example natively on the vendor's driver and
through bfrun over tcp and shm, and some framework programs where the framework can be imported. Needs a portable build
(bin/, lib/backfield/, e2e/), Python 3 and the driver; the toolkit only for programs that link its shared libraries.

  run.py --build BUILD [--only NAME ...] [--transports tcp,shm] [--no-frameworks]

Prints a table and, last, 'N passed, M failed, K skipped'. With $OUT set, $OUT/results.json holds every result, with what
the program printed natively (tests/gpu/record.py makes tests/e2e/expected/ from it). Without a GPU it says so and ends
with status 0."""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]
import harness
import nvml
import programs

SKIPPED = 77
# Framework programs: name -> the module they need. Their output is compared like that of all others.
FRAMEWORKS = {"torch_matmul": "torch", "torch_train": "torch", "torch_graph": "torch", "cupy_sum": "cupy", "jax_matmul": "jax"}


class Results:
    def __init__(self):
        self.rows = []

    def add(self, name, path, verdict, seconds=0.0, note="", stdout=None):
        row = {"name": name, "path": path, "verdict": verdict, "seconds": round(seconds, 3), "note": note}
        if stdout is not None:
            row["stdout"] = stdout.decode(errors="replace")
        self.rows.append(row)
        print(f"{verdict:4}  {name:28} {path:7} {seconds:7.2f} s  {note}", flush=True)

    def count(self, verdict):
        return sum(row["verdict"] == verdict for row in self.rows)

    def save(self, gpu):
        folder = os.environ.get("OUT")
        if folder:
            counts = {verdict: self.count(verdict) for verdict in ("pass", "FAIL", "skip")}
            pathlib.Path(folder, "results.json").write_text(json.dumps({"gpu": gpu, "counts": counts, "results": self.rows}, indent=1))


def unsatisfied(program):
    """A library that the program needs and the host lacks, or None."""
    environment = {**harness.clean_environment(), "LD_LIBRARY_PATH": ":".join(map(str, harness.toolkit_libraries()))}
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, env=environment)
    absent = [line.split()[0] for line in listed.stdout.splitlines() if "not found" in line]
    return absent[0] if absent else None


def compare(results, server, name, command, settings, transports, library_path):
    """Native run first; it is the reference, so a native failure leaves nothing to compare."""
    native = harness.run_native(command, settings, library_path)
    if native.status == SKIPPED:
        return results.add(name, "native", "skip", native.seconds, native.stdout.decode(errors="replace").strip()[-100:])
    if native.status != settings["status"]:
        tail = (native.stdout + native.stderr)[-300:].decode(errors="replace").replace("\n", " | ")
        return results.add(name, "native", "FAIL", native.seconds, f"status {native.status} instead of {settings['status']}: {tail}", native.stdout)
    results.add(name, "native", "pass", native.seconds, stdout=native.stdout)
    for transport in transports:
        remote = server.run(command, settings, transport, settings["gpus"], memory_mib=settings.get("memory_mib", 8192), library_path=library_path)
        if isinstance(remote.status, int) and remote.status > 128:
            remote.status = 128 - remote.status
        difference = remote.difference(native)
        results.add(name, transport, "FAIL" if difference else "pass", remote.seconds, difference)


def run_programs(results, build, server, wanted, transports):
    built = [p.name for p in build.programs.iterdir()]
    for name in programs.tests_of(built):
        if wanted and name not in wanted:
            continue
        program, settings = programs.settings_of(name)
        path = build.program(program)
        missing = unsatisfied(path)
        if missing:
            results.add(name, "native", "skip", note=f"the host has no {missing}")
            continue
        settings = {**settings, "timeout": max(settings["timeout"], 120)}
        compare(results, server, name, [str(path), *settings["args"]], settings, transports, harness.toolkit_libraries())


def run_frameworks(results, server, wanted, transports):
    for name, module in FRAMEWORKS.items():
        if wanted and name not in wanted:
            continue
        found = subprocess.run([sys.executable, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"])
        if found.returncode:
            results.add(name, "native", "skip", note=f"{module} is not installed")
            continue
        settings = {**programs.DEFAULTS, "timeout": 300, "memory_mib": 32768}
        compare(results, server, name, [sys.executable, str(HERE / "frameworks" / f"{name}.py")], settings, transports, [])


def run_quota(results, build, server, transports):
    """Natively there is no partition, so this one is judged by what it says."""
    for transport in transports:
        run = server.run([build.program("quota")], {**programs.DEFAULTS, "timeout": 120}, transport, memory_mib=2048)
        good = run.status == 0 and b"exact: yes" in run.stdout and b"total 2147483648\n" in run.stdout
        results.add("quota", transport, "pass" if good else "FAIL", run.seconds, "" if good else (run.stdout + run.stderr).decode(errors="replace").replace("\n", " | "))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="folder with bin/, lib/backfield/ and e2e/")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--transports", default="tcp,shm")
    parser.add_argument("--no-frameworks", action="store_true")
    arguments = parser.parse_args()
    gpu = harness.gpu_name()
    if gpu is None:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 0
    build = harness.Build(arguments.build)
    if build.missing():
        print(f"{build.missing()} is missing: name the folder of a portable build (docs/building.md)")
        return 1
    transports = [t for t in arguments.transports.split(",") if t]
    print(gpu)
    results = Results()
    try:
        with harness.Server(build, software_gpus=0) as server:
            run_programs(results, build, server, arguments.only, transports)
            if not arguments.only or "quota" in arguments.only:
                run_quota(results, build, server, transports)
            if not arguments.only or "nvml" in arguments.only:
                nvml.run_all(nvml.Report(results.add), server)
            if not arguments.no_frameworks:
                run_frameworks(results, server, arguments.only, transports)
            if server.process.poll() is not None:
                results.add("bfserver", "-", "FAIL", note="ended during the run: " + server.log_text(5))
            elif results.count("FAIL"):
                print("--- end of the server's log ---\n" + server.log_text())
    finally:
        results.save(gpu)
    print(f"{results.count('pass')} passed, {results.count('FAIL')} failed, {results.count('skip')} skipped")
    return 1 if results.count("FAIL") else 0


if __name__ == "__main__":
    sys.exit(main())
