#!/usr/bin/env python3
"""Runs workloads natively and through bfrun over a test link (link.py), and prints how they compare, and to what the link
allows. Needs a build (bin/, lib/backfield/, bench/), root or a kernel that lets users make namespaces, and no iproute2.

  run.py --build BUILD [--link 10,50] [--link 25,20] [--only gpt2 resnet50-1 ...] [--runs 3] [--software-gpu]
  run.py --build BUILD --link 1,1000 -- ./program arguments     any program that prints "label: VALUE ms"
  run.py --build BUILD --check-predict ...                      and how near `bf predict` comes, from a trace over loopback

A link is Gb/s,us. The table is bench.py's; with $OUT set, $OUT/network.json holds every figure. Where there is no GPU, or
no right to make namespaces, it says so and ends with status 0 (77 with --must-run)."""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "gpu"), str(HERE.parent / "e2e")]
import bench
import harness
import programs
from link import Link, Namespace
from link_server import PORT, LinkServer

def traced(build, server, workload, folder, *network):
    """What `bf predict` says of a run of the workload on `server`."""
    trace = pathlib.Path(folder) / "trace.json"
    done = server.run(workload.command, {**programs.DEFAULTS, "timeout": 600, "env": {"BF_TRACE": str(trace)}}, "tcp", memory_mib=4096)
    if done.status != 0:
        raise RuntimeError(f"{workload.name}: status {done.status}: {done.stderr[-300:].decode(errors='replace')}")
    said = subprocess.run([str(build.bin / "bf"), "predict", str(trace), "--json", *network], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


def check_prediction(build, server, link, workload, software_gpus):
    """Seconds between the first call and the last: over loopback, predicted for the link, and over the link."""
    gbit_s = min(link.up_gb_s, link.down_gb_s) * 8
    with tempfile.TemporaryDirectory() as folder:
        with harness.Server(build, software_gpus=software_gpus) as near:
            here = traced(build, near, workload, folder, "--rtt", str(link.rtt_us), "--bandwidth", str(gbit_s))
        there = traced(build, server, workload, folder)
    predicted, measured = here["networks"][0]["seconds"], there["traced_seconds"]
    print(f"bf predict, {workload.name}: {here['traced_seconds']:.3f} s over loopback, {predicted:.3f} s predicted, {measured:.3f} s measured "
          f"({(predicted / measured - 1) * 100:+.1f} %)", flush=True)
    return {"loopback_s": here["traced_seconds"], "predicted_s": predicted, "measured_s": measured}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_arguments(parser)
    parser.add_argument("--link", action="append", metavar="GBIT_S,RTT_US", help="repeatable; 10,50 and 25,20 and 1,1000 if not given")
    parser.add_argument("--check-predict", action="store_true")
    parser.add_argument("--must-run", action="store_true", help="a link that cannot be made is a failure")
    parser.add_argument("command", nargs="*", help="a program to time instead")
    return parser.parse_args()


def main():
    arguments = parse()
    gpu = bench.gpu_of(arguments)
    if gpu is None:
        print("skipped: there is no GPU here (nvidia-smi -L names none)")
        return 77 if arguments.must_run else 0
    try:
        Namespace().close()
    except OSError as error:
        print(f"skipped: {error}")
        return 77 if arguments.must_run else 0
    build = harness.Build(arguments.build)
    workloads = [bench.Workload("program", arguments.command)] if arguments.command else bench.chosen(arguments, build)
    print(f"{gpu}; medians of {arguments.runs} runs")
    failed, everything = 0, {}
    for text in arguments.link or ["10,50", "25,20", "1,1000"]:
        gbit_s, rtt_us = (float(word) for word in text.split(","))
        with Link(build.bin / "line", gbit_s * 1e9, rtt_us * 1e-6, PORT) as link:
            print(f"\n{link}", flush=True)
            with tempfile.TemporaryDirectory() as folder, LinkServer(build, link, folder, extra=["--encryption", "never"], software_gpus=1 if arguments.software_gpu else 0) as server:
                path = bench.Path("tcp", server, lambda _: (link.up_gb_s, link.down_gb_s, link.up_gb_s + link.down_gb_s))
                figures, failures = bench.compare(workloads, [path], arguments)
                predictions = {w.name: check_prediction(build, server, link, w, 1 if arguments.software_gpu else 0)
                               for w in workloads if arguments.check_predict}
        everything[text] = {"rtt_us": link.rtt_us, "up_gb_s": link.up_gb_s, "down_gb_s": link.down_gb_s, "figures": figures, "predictions": predictions}
        failed += failures
    bench.write_json("network.json", {"gpu": gpu, "runs": arguments.runs, "links": everything})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
