#!/usr/bin/env python3
"""table.py results.json: what a run of tests/gpu/run.py found, as Markdown for docs/compatibility.md: the host and the versions,
a row for each program with its cases, and every case that is no success, with the reason."""

import json
import pathlib
import sys

found = json.loads(pathlib.Path(sys.argv[1]).read_text())
programs = {}  # program -> case -> path -> row
for row in found["results"]:
    program, _, case = row["name"].partition(": ")
    case = case or (row["note"] if row["path"] == "-" else "")  # a check that has one path is its own text
    programs.setdefault(program, {}).setdefault(case, {})[row["path"]] = row
versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
print(f"{found['gpu']}; {found['host']}; {versions}.\n")
print("| program | cases | the same on every path | failed | not tried or not comparable |\n| --- | --- | --- | --- | --- |")
for program, cases in programs.items():
    verdicts = [{row["verdict"] for row in paths.values()} for paths in cases.values()]
    print(f"| `{program}` | {len(cases)} | {verdicts.count({'pass'})} | {sum('FAIL' in seen for seen in verdicts)} | {sum('FAIL' not in seen and 'skip' in seen for seen in verdicts)} |")
print("\n| no success | path | what was seen |\n| --- | --- | --- |")
for program, cases in programs.items():
    for case, paths in cases.items():
        for path, row in paths.items():
            if row["verdict"] != "pass":
                print(f"| {program}{': ' if case else ''}{case} | {path} | {row['verdict']}: {row['note'].replace('|', '/')} |")
