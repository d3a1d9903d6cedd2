#!/usr/bin/env python3
"""Times workloads natively and through bfrun over tcp and shm, in turn on one GPU host, and prints the medians and how
they compare: a ratio above 1 is better than native, for times and for rates alike. Needs a build (bin/, lib/backfield/,
bench/), and PyTorch for the framework workloads.

  bench.py --build BUILD [--runs 3] [--only primitives resnet50-64 ...] [--transports tcp,shm]

Every run is a process of its own; native and remote alternate, so that drift of the machine meets all of them. With $OUT
set, $OUT/bench.json holds every single figure. Without a GPU it says so and ends with status 0; --software-gpu times the
native software GPU against itself through bfrun instead, which says what the path costs and nothing of speed."""

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

PYTORCH = [sys.executable, str(HERE / "workloads/pytorch_steps.py")]
WORKLOADS = {
    "primitives": None,  # of the build
    "resnet50-64": [*PYTORCH, "resnet50", "64"],
    "resnet50-64-amp": [*PYTORCH, "resnet50", "64", "amp"],
    "resnet50-1": [*PYTORCH, "resnet50", "1"],
    "inception_v3-64": [*PYTORCH, "inception_v3", "64"],
    "inception_v3-128": [*PYTORCH, "inception_v3", "128"],
    "gpt2": [*PYTORCH, "gpt2"],
    "mlp": [*PYTORCH, "mlp"],
}
FIGURE = re.compile(r"^(.*): ([0-9.]+) (ms/step|ms|us|ns|x|GB/s|k/s)$", re.MULTILINE)
RATES = ("GB/s", "k/s")  # more is better


def table(figures, transports):
    """Rows of figures: label -> unit, path -> values."""
    for label, (unit, paths) in figures.items():
        native = statistics.median(paths.get("native", [0]))
        row = f"| {label} | {native:.2f} {unit} |"
        for transport in transports:
            remote = statistics.median(paths.get(transport, [0]))
            ratio = (remote, native) if unit in RATES else (native, remote)
            row += f" {remote:.2f} | {ratio[0] / ratio[1]:.3f} |" if remote and native else " failed | |"
        print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--transports", default="tcp,shm")
    parser.add_argument("--software-gpu", action="store_true")
    arguments = parser.parse_args()
    gpu = "software GPU" if arguments.software_gpu else harness.gpu_name()
    if gpu is None:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 0
    build = harness.Build(arguments.build)
    transports = [t for t in arguments.transports.split(",") if t]
    settings = {**programs.DEFAULTS, "timeout": 300}
    native_path = [build.software] if arguments.software_gpu else []
    memory = 4096 if arguments.software_gpu else 60000
    everything = {}
    failed = 0
    print(f"{gpu}; medians of {arguments.runs} runs")
    print("| workload | native |" + "".join(f" {t} | ratio |" for t in transports))
    print("| --- | --- |" + " --- | --- |" * len(transports))
    with harness.Server(build, software_gpus=1 if arguments.software_gpu else 0) as server:
        for name in arguments.only:
            command = WORKLOADS[name] or [str(build.root / "bench" / name)]
            figures = {}  # label -> unit, path -> values
            for _ in range(arguments.runs):
                for path in ["native", *transports]:
                    done = harness.run_native(command, settings, native_path) if path == "native" else server.run(command, settings, path, memory_mib=memory)
                    found = FIGURE.findall(done.stdout.decode(errors="replace"))
                    if done.status != 0 or not found:
                        failed += 1
                        print(f"{name} {path}: status {done.status}: {done.stderr[-300:].decode(errors='replace')}")
                    for label, value, unit in found:
                        figures.setdefault(label, (unit, {}))[1].setdefault(path, []).append(float(value))
            table(figures, transports)
            everything[name] = figures
    if os.environ.get("OUT"):
        pathlib.Path(os.environ["OUT"], "bench.json").write_text(json.dumps({"gpu": gpu, "runs": arguments.runs, "figures": everything}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
