#!/usr/bin/env python3
"""Times workloads natively and through bfrun over tcp and shm, in turn on one GPU host, and prints the medians and how
they compare. Needs a build (bin/, lib/backfield/, bench/), and PyTorch for the framework workloads.

  bench.py --build BUILD [--runs 5] [--only primitives resnet50-64 ...] [--transports tcp,shm]

A ratio above 1 is better than native, for times and for rates alike. The bound is what the path allows: the native time and
the bytes of a step over what a plain program with four connections moves (bytes that a step waits for are added; others
hide behind the step before, but for the first batch); "of bound" is how near we come, 1 at best. The plain program moves
transfers of the same size, from a buffer of that size into another, and waits until they are acknowledged. Between processes
of one host (shm) it is the native figure.

Every run is a process of its own, which measures --repeats times; native, the plain program and remote alternate, so that drift of
the machine meets all of them. What each run found goes to stderr when it ends, so nothing is lost if the rest is interrupted. (What `start`
needs is in the image cache from its second run on.) With $OUT set, $OUT/bench.json holds every single figure. Without a GPU it
says so and ends with status 0; --software-gpu times the native software GPU against itself through bfrun instead, which says what
the path costs and nothing of speed."""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness
import programs

PYTORCH = [sys.executable, str(HERE / "workloads/pytorch_steps.py")]
FIGURE = re.compile(r"^(.*): ([0-9.]+) (ms/step|ms|us|ns|x|GB/s|k/s)$", re.MULTILINE)
RATES = ("GB/s", "k/s")  # more is better
STEPS = 20  # of pytorch_steps.py between two waits for the device: the first batch has nothing to hide behind


class Workload:
    """`images`: (count, height) of the batch of pictures that each step sends, as fp32; `transfers`: sizes of what else it moves, in MiB."""

    def __init__(self, name, command, images=None, transfers=()):
        self.name, self.command = name, command
        self.bytes_up = images[0] * (3 * images[1] ** 2 * 4 + 8) if images else 0
        self.transfers = [self.bytes_up] if images else [mib << 20 for mib in transfers]

    def bound(self, label, unit, native, rates):
        """The best that the path allows, or None where it sets no limit that we know."""
        if unit == "GB/s" and label.startswith(("host to device", "device to host", "both")):
            up, down, both = rates(int(label.split()[-2]) << 20)
            return min(native, {"h": up, "d": down, "b": both}[label[0]])
        if unit == "ms/step" and self.bytes_up:
            line_ms = self.bytes_up / rates(self.bytes_up)[0] / 1e6
            waits = "infer" in label or "+item" in label  # a step that ends with an answer begins with its bytes
            return native + line_ms if waits else max(native, line_ms) + min(native, line_ms) / STEPS
        return None


WORKLOADS = [
    Workload("primitives", None, transfers=(1, 16, 64, 256)),  # of the build
    Workload("resnet50-64", [*PYTORCH, "resnet50", "64"], (64, 224)),
    Workload("resnet50-64-amp", [*PYTORCH, "resnet50", "64", "amp"], (64, 224)),
    Workload("resnet50-128", [*PYTORCH, "resnet50", "128"], (128, 224)),
    Workload("resnet50-1", [*PYTORCH, "resnet50", "1"], (1, 224)),
    Workload("inception_v3-64", [*PYTORCH, "inception_v3", "64"], (64, 299)),
    Workload("inception_v3-128", [*PYTORCH, "inception_v3", "128"], (128, 299)),
    Workload("gpt2", [*PYTORCH, "gpt2"]),
    Workload("mlp", [*PYTORCH, "mlp"]),
    Workload("start", [*PYTORCH, "resnet50", "64", "start"]),
]


class Path:
    """A transport to a server, and what a plain program moves over it: GB/s up, down and both ways at once of transfers of a
    size. No limit where nothing crosses a line."""

    def __init__(self, transport, server, rates=None):
        self.transport, self.server, self.rates = transport, server, rates

    def bound(self, workload, label, unit, native):
        return workload.bound(label, unit, native, self.rates) if self.rates else None


def add_arguments(parser):
    parser.add_argument("--build", required=True)
    parser.add_argument("--runs", type=int, default=3)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--repeats", type=int, default=1, help="measurements in each run of a framework workload")
    parser.add_argument("--software-gpu", action="store_true")
    parser.add_argument("--seconds", type=float, help="for each figure of the primitives")


def gpu_of(arguments):
    return "software GPU" if arguments.software_gpu else harness.gpu_name()


def chosen(arguments, build):
    for workload in WORKLOADS:
        if workload.name == "primitives":
            workload.command = [str(build.root / "bench" / "primitives"), *([str(arguments.seconds)] if arguments.seconds else [])]
    return [workload for workload in WORKLOADS if workload.name in arguments.only]


class LoopbackLine:
    """A plain program between two processes of this host, measured once in every run: medians of processes of its own."""

    def __init__(self, build):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.line, self.pings, self.moves = str(build.bin / "line"), [], {}

    def __enter__(self):
        self.other = subprocess.Popen([self.line, "serve", self.port])
        time.sleep(0.2)
        return self

    def __exit__(self, *exception):
        self.other.kill()
        self.other.wait()

    def ask(self, what, *words):
        done = subprocess.run([self.line, what, "127.0.0.1", self.port, *words], capture_output=True, text=True, timeout=60, check=True)
        return tuple(float(word) for word in done.stdout.split())

    def measure(self, transfers):
        self.pings.append(self.ask("measure", "0.1")[0])
        for bytes_ in transfers:
            self.moves.setdefault(bytes_, []).append(self.ask("move", str(bytes_)))

    def rates(self, bytes_):
        return tuple(statistics.median(way) for way in zip(*self.moves[bytes_]))

    def __str__(self):
        lines = [f"a plain ping-pong takes {statistics.median(self.pings):.1f} us ({', '.join(map(str, self.pings))})"]
        for bytes_ in sorted(self.moves):
            up, down, both = self.rates(bytes_)
            lines.append(f"a plain program moves transfers of {bytes_ / 2**20:.1f} MiB at {up:.2f} GB/s, {down:.2f} back, {both:.2f} both ways at once")
        return "\n".join(lines)


def better(unit, mine, reference):
    """Above 1: mine is better."""
    return mine / reference if unit in RATES else reference / mine


def rows(workload, figures, paths):
    """Lines of the table: of label -> (unit, path -> values)."""
    for label, (unit, values) in figures.items():
        native = statistics.median(values.get("native", [0]))
        row = f"| {label} | {native:.2f} {unit} |"
        for path in paths:
            remote = statistics.median(values.get(path.transport, [0]))
            if not remote or not native:
                row += " failed | | |"
                continue
            bound = path.bound(workload, label, unit, native) or native
            row += f" {remote:.2f} | {better(unit, remote, native):.3f} | {better(unit, remote, bound):.3f} |"
        yield row


def compare(workloads, paths, arguments, line=None):
    """Runs all of them, beside the plain program `line`, prints the table; ({workload: figures}, how many runs failed)."""
    settings = {**programs.DEFAULTS, "timeout": 600, "env": {"BENCH_REPEATS": str(arguments.repeats)}}
    native_path = [harness.Build(arguments.build).software] if arguments.software_gpu else []
    memory = 4096 if arguments.software_gpu else 60000
    everything, failed = {}, 0
    print("| workload | native |" + "".join(f" {path.transport} | ratio | of bound |" for path in paths))
    print("| --- | --- |" + " --- | --- | --- |" * len(paths))
    for workload in workloads:
        figures = {}
        for run in range(arguments.runs):
            if line:
                line.measure(workload.transfers)
            for path in [None, *paths]:
                name = path.transport if path else "native"
                done = (path.server.run(workload.command, settings, name, memory_mib=memory) if path
                        else harness.run_native(workload.command, settings, native_path))
                found = FIGURE.findall(done.stdout.decode(errors="replace"))
                if done.status != 0 or not found:
                    failed += 1
                    print(f"{workload.name} {name}: status {done.status}: {done.stderr[-300:].decode(errors='replace')}")
                print(f"{workload.name}, {name}, {run + 1} of {arguments.runs}: " + "; ".join(f"{label} {value}" for label, value, _ in found),
                      file=sys.stderr, flush=True)
                for label, value, unit in found:
                    figures.setdefault(label, (unit, {}))[1].setdefault(name, []).append(float(value))
        for row in rows(workload, figures, paths):
            print(row, flush=True)
        everything[workload.name] = figures
    return everything, failed


def write_json(name, content):
    if os.environ.get("OUT"):
        pathlib.Path(os.environ["OUT"], name).write_text(json.dumps(content, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--transports", default="tcp,shm")
    arguments = parser.parse_args()
    gpu = gpu_of(arguments)
    if gpu is None:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 0
    build = harness.Build(arguments.build)
    with LoopbackLine(build) as line, harness.Server(build, software_gpus=1 if arguments.software_gpu else 0) as server:
        print(f"{gpu}; medians of {arguments.runs} runs")
        paths = [Path(t, server, line.rates if t == "tcp" else None) for t in arguments.transports.split(",") if t]
        figures, failed = compare(chosen(arguments, build), paths, arguments, line)
        print(line)
    plain = {"rtt_us": line.pings, "moves": line.moves}
    write_json("bench.json", {"gpu": gpu, "runs": arguments.runs, "line": plain, "figures": figures})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
