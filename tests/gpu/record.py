#!/usr/bin/env python3
"""record.py results.json: writes what a real GPU printed (tests/gpu/run.py) into tests/e2e/expected/, where the end-to-end
runner compares the software GPU with it. Programs whose output names the hardware are left out."""

import json
import pathlib
import sys

HARDWARE = {"device_query", "limits", "occupancy", "memory_pool", "driver_jit", "float_math", "functions", "thrust_cub", "graph_host_copies", "train_mlp", "driver_errors", "own_runtimes"}

folder = pathlib.Path(__file__).resolve().parent.parent / "e2e" / "expected"
folder.mkdir(exist_ok=True)
for row in json.loads(pathlib.Path(sys.argv[1]).read_text())["results"]:
    if row["path"] == "native" and row["verdict"] == "pass" and "stdout" in row and row["name"] not in HARDWARE and "torch" not in row["name"]:
        (folder / f"{row['name']}.txt").write_text(row["stdout"])
