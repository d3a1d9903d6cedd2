#!/usr/bin/env python3
"""Times framework workloads natively and through bfrun over tcp and shm, in turn on one GPU host, and prints the medians
and their ratios to native (above 1: faster than native). Needs a build (bin/, lib/backfield/) and PyTorch.

  bench.py --build BUILD [--runs 3] [--only resnet50-64 ...] [--transports tcp,shm]

Every run is a process of its own; native and remote alternate, so that drift of the machine meets all of them. With $OUT
set, $OUT/bench.json holds every single figure. Without a GPU it says so and ends with status 0."""

import argparse
import json
import os
import pathlib
import re
import statistics
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness
import programs

WORKLOADS = {
    "resnet50-64": ["resnet50", "64"],
    "resnet50-64-amp": ["resnet50", "64", "amp"],
    "resnet50-1": ["resnet50", "1"],
    "inception_v3-64": ["inception_v3", "64"],
    "gpt2": ["gpt2"],
    "mlp": ["mlp"],
}
FIGURE = re.compile(r"^(.*): ([0-9.]+) ms/step$", re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--transports", default="tcp,shm")
    arguments = parser.parse_args()
    gpu = harness.gpu_name()
    if gpu is None:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 0
    build = harness.Build(arguments.build)
    transports = [t for t in arguments.transports.split(",") if t]
    settings = {**programs.DEFAULTS, "timeout": 300}
    figures = {}  # label -> path -> [ms]
    failed = 0
    with harness.Server(build, software_gpus=0) as server:
        for name in arguments.only:
            command = [sys.executable, str(HERE / "workloads/pytorch_steps.py"), *WORKLOADS[name]]
            for _ in range(arguments.runs):
                for path in ["native", *transports]:
                    done = harness.run_native(command, settings, []) if path == "native" else server.run(command, settings, path, memory_mib=60000)
                    found = FIGURE.findall(done.stdout.decode(errors="replace"))
                    if done.status != 0 or not found:
                        failed += 1
                        print(f"{name} {path}: status {done.status}: {done.stderr[-300:].decode(errors='replace')}")
                    for label, milliseconds in found:
                        figures.setdefault(label, {}).setdefault(path, []).append(float(milliseconds))
    print(f"{gpu}; medians of {arguments.runs} runs, ms/step")
    print("| workload | native |" + "".join(f" {t} | ratio |" for t in transports))
    print("| --- | --- |" + " --- | --- |" * len(transports))
    for label, paths in figures.items():
        native = statistics.median(paths.get("native", [0]))
        row = f"| {label} | {native:.2f} |"
        for transport in transports:
            remote = statistics.median(paths.get(transport, [0]))
            row += f" {remote:.2f} | {native / remote:.3f} |" if remote else " failed | |"
        print(row)
    if os.environ.get("OUT"):
        pathlib.Path(os.environ["OUT"], "bench.json").write_text(json.dumps({"gpu": gpu, "runs": arguments.runs, "ms": figures}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
