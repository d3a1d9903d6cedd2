"""Where the time went: `bfrun --stats` and BF_TRACE tell what a program did - its launches, its waits, its bytes, on both
sides - also when it is killed, forks, or starts others; and change nothing about it."""

import json
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import Checks, build_from_arguments, finish

build, check = build_from_arguments(), Checks()
settings = programs.DEFAULTS


def traced(server, command, transport, path):
    """The run, and the trace's events."""
    environment = {**harness.clean_environment(), "BF_TRACE": str(path)}
    done = harness.execute(server.bfrun(command, transport, options=["--stats"]), environment, settings)
    return done, json.loads(path.read_text())


def summary(done):
    """The figures of --stats, by their words."""
    text = done.stderr.decode()
    calls, here, posts, round_trips = (int(n) for n in re.search(r"(\d+) calls: (\d+) answered here; the others sent (\d+) frames .* made (\d+) round trips", text).groups())
    up, down, wait = (float(n) for n in re.search(r"([\d.]+) MiB to the server, ([\d.]+) MiB from it; .* waited ([\d.]+) ms", text).groups())
    table = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("cu")}
    return {"calls": calls, "here": here, "posts": posts, "round_trips": round_trips, "up": up, "down": down, "wait": wait, "table": table}


with harness.Server(build) as server, tempfile.TemporaryDirectory() as folder:
    trace = pathlib.Path(folder) / "trace.json"
    for transport in ("tcp", "shm"):
        plain = server.run([build.program("launch_many")], settings, transport)
        done, events = traced(server, [build.program("launch_many")], transport, trace)
        check(done.status == plain.status == 0 and done.stdout == plain.stdout, f"{transport}: watched and not, the program prints the same")
        runs = [e for e in events if e.get("ph") == "X"]
        launches = [e for e in runs if e["name"] == "cuLaunchKernel" and e["cat"] == "post"]
        worker = [e for e in runs if e["name"] == "cuLaunchKernel" and e["cat"] == "worker"]
        check(len(launches) == 5000 and len(worker) == 5000, f"  all 5000 launches, here {len(launches)} and on the worker {len(worker)}")
        check({e["pid"] for e in launches} != {e["pid"] for e in worker}, "  which are two processes of the trace")
        copies = [e for e in runs if e["name"].startswith("cuMemcpyDtoH") and e["cat"] == "round trip"]
        waits = [e for e in runs if e["cat"] == "wait" and e["name"] == "wait for the answer"]
        check(len(copies) == 1 and copies[0]["args"]["bytes_down"] >= 4 and copies[0]["args"]["wait_us"] > 0, f"  the copy back, and that it waited {copies[0]['args'] if copies else copies}")
        inside = [w for w in waits for c in copies if c["ts"] <= w["ts"] and w["ts"] + w["dur"] <= c["ts"] + c["dur"]]
        check(len(inside) == 1, "  the wait lies within the call")
        # The clocks agree: the worker runs a launch after the client made it.
        first_here, first_there = min(e["ts"] for e in launches), min(e["ts"] for e in worker)
        error = [e for e in events if e["name"] == "bf_session"][0]["args"]["clock_error_us"]
        check(first_there >= first_here - error, f"  the worker's clock is in line: {first_there - first_here:.0f} us later, known to {error} us")
        figures = summary(done)
        check(figures["calls"] >= 5000 and figures["posts"] >= 5000 and figures["here"] > 0, f"  --stats: {figures['calls']} calls, {figures['posts']} posted, {figures['here']} answered here")
        check(figures["round_trips"] == sum(e["args"]["round_trips"] for e in runs if e["pid"] == launches[0]["pid"] and e["cat"] != "wait"), f"  both count {figures['round_trips']} round trips")
        check(figures["wait"] > 0 and sum(float(row[0]) for row in figures["table"].values()) <= figures["wait"] + 1, f"  waited {figures['wait']} ms, most in {next(iter(figures['table']))}")

    done, events = traced(server, [build.program("bidirectional"), "1"], "tcp", trace)
    figures = summary(done)
    up = sum(e["args"].get("bytes_up", 0) for e in events if e.get("cat") in ("post", "round trip"))
    check(figures["up"] > 16 and abs(figures["up"] - up / 2**20) < 1, f"bytes of large copies count: {figures['up']} MiB up, {up / 2**20:.1f} in the trace, {figures['down']} MiB down")
    check(any(e["name"] == "wait for the client's bytes" for e in events), "and the worker says where it waited for them")

    done, events = traced(server, [build.program("leftover_pointers")], "tcp", trace)
    maps = [e["ts"] for e in events if e.get("name") == "bfMirrorMap" and e["cat"] == "worker"]
    before = [sum(e.get("name") == "cuLaunchKernel" and e["cat"] == "post" and e["ts"] < at for e in events) for at in maps]
    check(done.status == 0 and len(before) == 3 and before[0] >= 100 and before[1] >= 300, f"no buffer is mapped for an address that a struct's tail was left with: {len(maps)} mapped, after {before} launches")

    done, events = traced(server, [build.program("driver_shared_sizes")], "tcp", trace)
    asked = {name: sum(e.get("name") == name and e["cat"] == "round trip" for e in events) for name in ("cuKernelSetAttribute", "cuFuncSetAttribute")}
    check(done.status == 0 and asked == {"cuKernelSetAttribute": 7, "cuFuncSetAttribute": 7}, f"a size of shared memory that was granted before is not asked for again: {asked}")

    done, events = traced(server, [build.program("killed")], "tcp", trace)
    check(done.status == 137 and summary(done)["calls"] > 0, f"killed: --stats still knows {summary(done)['calls']} calls, and the trace can be read")
    done, events = traced(server, [build.program("fork_after")], "tcp", trace)
    check(done.status == 0 and len({e["pid"] for e in events if e.get("cat") in ("post", "round trip")}) == 1, "a forked child adds nothing")
    program = build.program("vector_add")
    done, events = traced(server, ["sh", "-c", f"{program}; {program}"], "shm", trace)
    check(done.status == 0 and len({e["pid"] for e in events if e.get("cat") in ("post", "round trip")}) == 2, "two programs share one trace")
    check(b"2 processes" in done.stderr, "and one summary")
    done = harness.execute(server.bfrun(["true"]), {**harness.clean_environment(), "BF_TRACE": "/nonexistent/trace"}, settings)
    check(done.status == 125 and b"/nonexistent/trace" in done.stderr, f"a trace that cannot be written: {done.stderr[-120:]}")
finish(check)
