"""The test link is what it says: no quicker than its round trip, no more than its rate; a program runs over it, and uploads that take
their time do not hold up what does not wait for them."""

import pathlib
import re
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e")]
import harness
import programs
from checks import Checks, build_from_arguments, finish
from link import Link, Namespace
from link_server import PORT, LinkServer

build, check = build_from_arguments(), Checks()
try:
    Namespace().close()
except OSError as error:
    print(f"skipped: {error}")
    sys.exit(77)
program = [str(build.program("vector_add"))]
native = harness.run_native(program, programs.DEFAULTS, [build.software])
with Link(build.bin / "line", 1e9, 2e-3, PORT) as link:
    print(link)
    check(link.rtt_us >= 1900, f"a round trip takes 2 ms, or a twentieth less: {link.rtt_us:.0f} us")
    # The bucket lets half a millisecond through at once; queues at both ends hold more than is on the line.
    check(0 < link.up_gb_s < 0.13 and 0 < link.down_gb_s < 0.13, f"1 Gb/s at most each way: {link.up_gb_s:.3f} and {link.down_gb_s:.3f} GB/s")
    with tempfile.TemporaryDirectory() as folder, LinkServer(build, link, folder, extra=["--encryption", "never"]) as server:
        remote = server.run(program, programs.DEFAULTS, "tcp")
        check(not remote.difference(native), f"a program runs over it: {remote.difference(native) or f'{remote.seconds:.2f} s'}")
        late = server.run([str(build.program("late_bytes")), "--times"], programs.DEFAULTS, "tcp").stdout.decode()
        said = re.search("after ([0-9.]+) of ([0-9.]+) ms, ([0-9.]+) of ([0-9.]+) ms", late)
        check(said and "WRONG" not in late, f"uploads arrive: {late.strip()}")
        check(said and all(float(said[i]) < float(said[i + 1]) / 2 for i in (1, 3)), "and other streams and threads are answered meanwhile")
finish(check)
