#!/usr/bin/env python3
"""Runs end-to-end programs natively on the software driver and through bfrun, and compares output and exit status byte
for byte. Each transport is a run of its own: tcp and shm against one bfserver that this script starts and stops, and
loopback, client and worker in one process (tests/loopback).

  run.py --build build                    every program, every transport
  run.py --build build events streams     some programs
  run.py --build build --transports tcp   one transport
  BF_E2E_HOST=ADDRESS run.py --transports tcp,rdma   over RDMA, at an address of this host that has it
  run.py --list --build build             the names
Exit status: 0 all well, 1 something failed, 77 nothing could be run."""

import argparse
import difflib
import os
import pathlib
import sys
import tempfile

import harness
import programs

SKIPPED = 77
HOST = os.environ.get("BF_E2E_HOST", "")  # clients take a server at another address than loopback for another host
EXPECTED = pathlib.Path(__file__).parent / "expected"


def names_in(build):
    return programs.tests_of([p.name for p in build.programs.iterdir()] if build.programs.exists() else [])


def judge_native(name, settings, native):
    """What is wrong with the reference itself; empty if nothing. expected/NAME.txt is what real hardware printed."""
    if native.status == SKIPPED and native.stdout.startswith(b"skipped"):
        return ""
    if native.status != settings["status"]:
        tail = (native.stdout + native.stderr)[-400:].decode(errors="replace")
        return f"status {native.status} instead of {settings['status']}: {tail}"
    expected = EXPECTED / f"{name}.txt"
    if expected.exists() and expected.read_bytes() != native.stdout:
        difference = difflib.unified_diff(expected.read_text().splitlines(), native.stdout.decode(errors="replace").splitlines(), "hardware", "software", lineterm="", n=0)
        return "differs from real hardware: " + "; ".join(list(difference)[2:8])
    return ""


class Report:
    def __init__(self):
        self.failed = self.passed = self.skipped = 0

    def add(self, name, path, run, problem):
        self.failed += bool(problem)
        self.passed += not problem
        print(f"{'FAIL' if problem else 'pass'}  {name:28} {path:9} {run.seconds:6.2f} s  {problem}", flush=True)

    def skip(self, name, path, why):
        self.skipped += 1
        print(f"skip  {name:28} {path:9} {why}", flush=True)


def run_program(build, server, name, transports, report):
    program, settings = programs.settings_of(name)
    command = [str(build.program(program)), *settings["args"]]
    gpus = settings["gpus"]
    toolkit = harness.toolkit_libraries()
    native = harness.run_native(command, settings, [build.software, *toolkit], gpus)
    report.add(name, "native", native, judge_native(name, settings, native))
    for transport in transports:
        if transport == "loopback":
            library = build.shim / "loopback"
            if not library.exists():
                report.skip(name, transport, f"{library} was not built")
                continue
            remote = harness.run_native(command, {**settings, "env": {**settings["env"], "BF_DRIVER": str(build.software / "libcuda.so.1")}},
                                        [library, *toolkit], gpus)
        else:
            remote = server.run(command, settings, transport, gpus, library_path=toolkit)
            remote.status = as_waited(remote.status)
        report.add(name, transport, remote, remote.difference(native))


def server_for(build, folder):
    """Away from loopback servers want tokens; and sessions over rdma cannot be encrypted."""
    return harness.PoolServer(build, folder, host=HOST, extra=["--encryption", "never"]) if HOST else harness.Server(build)


def as_waited(status):
    """bfrun reports a signal as a shell does: 128 + number."""
    return 128 - status if isinstance(status, int) and status > 128 else status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="build folder")
    parser.add_argument("--transports", default="tcp,shm,loopback")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    build = harness.Build(arguments.build)
    if arguments.list:
        print("\n".join(names_in(build)))
        return 0
    transports = [t for t in arguments.transports.split(",") if t and t != "native"]
    missing = build.missing() if set(transports) - {"loopback"} else None
    if missing:
        print(f"nothing to run: {missing} has not been built")
        return SKIPPED
    report = Report()
    names = arguments.names or names_in(build)
    if set(transports) - {"loopback"}:
        with tempfile.TemporaryDirectory() as folder, server_for(build, folder) as server:
            for name in names:
                run_program(build, server, name, transports, report)
            if server.process.poll() is not None:
                report.failed += 1
                print(f"FAIL  bfserver ended during the run:\n{server.log_text()}")
    else:
        for name in names:
            run_program(build, None, name, transports, report)
    print(f"{report.passed} passed, {report.failed} failed, {report.skipped} skipped")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
