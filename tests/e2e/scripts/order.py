"""Order: host threads mix launches, copies, sets, events, waits, queries and host functions at random. The final memory
must be the same natively and on every transport. Then large copies in both directions at once.
Full run (BF_E2E_FULL=1): 100,000 rounds for each of several seeds and thread counts."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import FULL, Checks, build_from_arguments, finish

build, check = build_from_arguments(), Checks()
plans = [(100_000 if FULL else 10_000, threads, seed) for threads, seed in ([(2, 1), (3, 2), (8, 3), (16, 4), (64, 5)] if FULL else [(2, 1), (8, 3)])]
settings = {**programs.DEFAULTS, "timeout": 1800 if FULL else 200}
with harness.Server(build) as server:
    for rounds, threads, seed in plans:
        command = [str(build.program("order_stress")), str(rounds), str(threads), str(seed)]
        native = harness.run_native(command, settings, [build.software])
        if not check(native.status == 0, f"{rounds} rounds, {threads} threads, seed {seed}: native, {native.seconds:.1f} s {native.stdout[-200:] if native.status else ''}"):
            continue
        for transport in ("tcp", "shm"):
            remote = server.run(command, settings, transport)
            check(not remote.difference(native), f"  {transport}: {remote.difference(native) or 'same memory'}, {remote.seconds:.1f} s")
    for transport in ("tcp", "shm"):
        run = server.run([build.program("bidirectional"), "40" if FULL else "4"], settings, transport)
        check(run.status == 0 and run.stdout == b"down: 1, up: 1\n", f"both directions at once, {transport}: {run.seconds:.1f} s {run.stdout if run.status else ''}")
finish(check)
