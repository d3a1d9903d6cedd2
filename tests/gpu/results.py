"""What the runner found: how a run is compared with its reference, case by case, and the table and files made of it.

A program may check many things in one process: it prints a line `case NAME: VALUE` for each (programs/cases.h,
frameworks/cases.py). VALUE says what came out, bit for bit, and begins with "skipped", "WRONG" or "FAILED" when it was not
tried, is not what arithmetic says, or ended with an error. A program without such lines is one case itself."""

import json
import os
import pathlib
import re
import threading

SKIPPED = 77  # exit status of a program that finds nothing to try
CASE = re.compile(r"^case ([^:\n]+): (.*)\n?", re.M)
SHOWN = 8  # cases that are told one by one for each run; results.json has them all
LOG_LINE = re.compile(rb"^\d\d:\d\d:\d\d\.\d{3} backfield\[\d+\] .*\n?", re.M)  # base/log.cc


def cases_of(run):
    """Name -> value; a name that comes again is numbered."""
    found = {}
    for name, value in CASE.findall(run.stdout.decode(errors="replace")):
        unique, again = name, 2
        while unique in found:
            unique, again = f"{name} ({again})", again + 1
        found[unique] = value
    return found


def first_difference(got, wanted):
    """Two values of a case; of long ones only the first words that differ."""
    mine, theirs = got.split(" "), wanted.split(" ")
    for i, (a, b) in enumerate(zip(mine, theirs)):
        if a != b:
            return f"word {i + 1} of {len(theirs)}: got [{' '.join(mine[i:])[:160]}] instead of [{' '.join(theirs[i:])[:160]}]"
    return f"got {len(mine)} words instead of {len(theirs)}: [{got[-160:]}]"


def tail(run, lines=12):
    """The end of standard error, where shim, interpreter and program complain."""
    return "\n".join(run.stderr.decode(errors="replace").splitlines()[-lines:])


def judge_native(job, run):
    """Rows (case, verdict, note) of the reference itself."""
    if run.status == SKIPPED:
        return [("", "skip", run.stdout.decode(errors="replace").strip()[-100:])]
    rows = []
    for case, value in cases_of(run).items():
        bad = value.startswith(("WRONG", "FAILED"))
        rows.append((case, "FAIL" if bad else "skip" if value.startswith("skipped") else "pass", value[:300] if bad or value.startswith("skipped") else ""))
    if run.status != job.settings["status"]:
        printed = CASE.sub("", run.stdout.decode(errors="replace"))[-200:].replace("\n", " | ")
        rows.append(("", "FAIL", f"status {run.status} instead of {job.settings['status']} {printed}"))
    return rows or [("", "pass", "")]


def judge_remote(job, run, reference, again):
    """Rows of a run through bfrun. `again` gives a second native run: what two of those disagree about proves nothing."""
    theirs, mine = cases_of(reference), cases_of(run)
    rows = []
    for case, wanted in theirs.items():
        got = mine.get(case)
        if got == wanted:
            answered = not wanted.startswith(("WRONG", "FAILED", "skipped"))
            rows.append((case, "pass" if answered else "skip", "" if answered else "as natively"))
        elif got is None:
            rows.append((case, "FAIL", "not reached"))
        elif cases_of(again()).get(case, wanted) != wanted:
            rows.append((case, "skip", "not repeatable natively"))
        else:
            rows.append((case, "FAIL", first_difference(got, wanted)))
    rows += [(case, "FAIL", f"got [{mine[case][:160]}], which was not reached natively") for case in mine if case not in theirs]
    difference = without_cases(job, run).difference(without_cases(job, reference))
    if difference or not rows:
        rows.append(("", "FAIL" if difference else "pass", difference))
    return rows


def without_cases(job, run):
    """The rest of what a run printed; of programs that report cases the status alone, since their libraries chat."""
    rest = type(run)(run.status, run.stdout, LOG_LINE.sub(b"", run.stderr), run.seconds)
    if not job.strict:
        rest.stdout = rest.stderr = b""
    return rest


class Results:
    def __init__(self):
        self.rows = []
        self.lock = threading.Lock()

    def add(self, name, path, rows, seconds=0.0, errors="", stdout=None):
        """One line of the table for all rows (case, verdict, note) of one run, and one for each that is not a pass."""
        with self.lock:
            for case, verdict, note in rows:
                row = {"name": f"{name}: {case}" if case else name, "path": path, "verdict": verdict, "seconds": round(seconds, 3), "note": note}
                if verdict == "FAIL" and errors:
                    row["stderr"] = errors
                if stdout is not None:
                    row["stdout"] = stdout.decode(errors="replace")
                self.rows.append(row)
            self.show(name, path, rows, seconds, errors)

    def show(self, name, path, rows, seconds, errors):
        verdicts = [verdict for _, verdict, _ in rows]
        overall = "FAIL" if "FAIL" in verdicts else "pass" if "pass" in verdicts else "skip"
        alone = len(rows) == 1 and not rows[0][0]
        said = rows[0][2] if alone else f"{verdicts.count('pass')} of {len(rows)} cases"
        print(f"{overall:4}  {name:28} {path:7} {seconds:7.2f} s  {said}", flush=True)
        notable = [] if alone else [row for row in rows if row[1] != "pass"]
        for case, verdict, note in notable[:SHOWN]:
            print(f"  {verdict}  {case}: {note}", flush=True)
        if len(notable) > SHOWN:
            print(f"  and {len(notable) - SHOWN} more that are no success", flush=True)
        if overall == "FAIL" and errors:
            print("      | " + "\n      | ".join(errors.splitlines()[-4:]), flush=True)

    def recap(self):
        """The failures alone, a line each: the last lines of a long table are what people see."""
        failures = [row for row in self.rows if row["verdict"] == "FAIL"]
        for row in failures[:60]:
            print(f"FAIL  {row['name']} ({row['path']}): {row['note'][:150]}")
        if len(failures) > 60:
            print(f"and {len(failures) - 60} more")

    def count(self, verdict):
        return sum(row["verdict"] == verdict for row in self.rows)

    def agreeing(self):
        """Cases that passed natively and on every other path they were tried on."""
        by_name = {}
        for row in self.rows:
            by_name.setdefault(row["name"], {})[row["path"]] = row["verdict"]
        return sum("native" in paths and len(paths) > 1 and set(paths.values()) == {"pass"} for paths in by_name.values())

    def save(self, about):
        folder = os.environ.get("OUT")
        if folder:
            counts = {verdict: self.count(verdict) for verdict in ("pass", "FAIL", "skip")}
            pathlib.Path(folder, "results.json").write_text(json.dumps({**about, "counts": counts, "results": self.rows}, indent=1))
