#!/usr/bin/env python3
"""record.py results.json: writes what a real GPU printed (tests/gpu/run.py) into tests/e2e/expected/, where the end-to-end
runner compares the software GPU with it. Programs whose output names the hardware are left out; framework and library
programs are not recorded."""

import json
import pathlib
import sys

# Their output names the hardware or the place, or holds values of its special functions and of sums in no fixed order.
HARDWARE = {"device_query", "limits", "occupancy", "float_math", "surroundings", "train_mlp"}

folder = pathlib.Path(__file__).resolve().parent.parent / "e2e" / "expected"
folder.mkdir(exist_ok=True)
for row in json.loads(pathlib.Path(sys.argv[1]).read_text())["results"]:
    if row["path"] == "native" and row["verdict"] == "pass" and "stdout" in row and row["name"] not in HARDWARE:
        (folder / f"{row['name']}.txt").write_text(row["stdout"])
