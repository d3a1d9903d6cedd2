"""How the shim gets into programs: by LD_LIBRARY_PATH and by LD_PRELOAD, without leaking a symbol or a line of output;
and what bfrun does when there is no server, no program, or a wrong option."""

import os
import re
import socket
import subprocess

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import FULL, Checks, build_from_arguments, finish

build, check = build_from_arguments(), Checks()
settings = programs.DEFAULTS
shim = build.shim / "libcuda.so.1"

listed = subprocess.run(["nm", "-D", "--defined-only", str(shim)], capture_output=True, text=True, check=True).stdout
foreign = [line.split()[-1] for line in listed.splitlines() if not re.match(r"(cu|cuda|__cuda)", line.split()[-1]) and " A " not in line]
check(listed.count("\n") > 600 and not foreign, f"the shim exports {listed.count(chr(10))} names, all of them NVIDIA's {foreign[:5]}")
needed = re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", str(shim)], capture_output=True, text=True).stdout)
allowed = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2"}
check(set(needed) <= allowed, f"it needs the C library alone: {needed}")

with harness.Server(build) as server:
    example = build.program("vector_add")
    plain = harness.run_native([str(example)], settings, [build.software])
    # What bfrun sets for a program, taken to start one by hand.
    dump = server.run(["env", "-0"], settings)
    remote = dict(entry.split("=", 1) for entry in dump.stdout.decode().split("\0") if "=" in entry)
    remote = {k: v for k, v in remote.items() if k.startswith(("BF_", "LD_"))}
    check("LD_LIBRARY_PATH" in remote or "LD_PRELOAD" in remote, f"bfrun sets {sorted(remote)}")
    keep = subprocess.Popen(server.bfrun(["sh", "-c", "env -0; echo; exec sleep 30"]), stdout=subprocess.PIPE, env=harness.clean_environment(), start_new_session=True)
    text = keep.stdout.readline().decode()
    lease = {k: v for k, v in (e.split("=", 1) for e in text.split("\0") if "=" in e) if k.startswith("BF_")}
    for how in ({"LD_LIBRARY_PATH": str(build.shim)}, {"LD_PRELOAD": str(shim)}):
        run = harness.execute([str(example)], {**harness.clean_environment(), **lease, **how}, settings)
        check(not run.difference(plain), f"with {list(how)[0]}: {run.difference(plain) or 'same output'}")
    no_cuda = harness.execute(["sh", "-c", "echo hello; ls / | head -1"], {**harness.clean_environment(), **lease, "LD_PRELOAD": str(shim)}, settings)
    check(no_cuda.stdout.startswith(b"hello\n") and no_cuda.stderr == b"", "preloaded into programs without CUDA it is silent")
    without = harness.execute([str(example)], {**harness.clean_environment(), "LD_LIBRARY_PATH": str(build.shim)}, settings)
    check(without.status == 1 and without.seconds < 10, f"the shim without a lease: status {without.status}, {without.stderr[-120:]}")
    keep.kill()
    keep.wait()

    def bfrun(*words, **more):
        return subprocess.run([str(build.bin / "bfrun"), *words], capture_output=True, env=harness.clean_environment(), timeout=30, **more)

    where = ["--server", server.address, "-n", "1", "-m", "256"]
    for command, status in ((["true"], 0), (["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -15 $$"], 143), (["/nonexistent/program"], 127), (["/etc/passwd"], 126)):
        done = bfrun(*where, "--", *command)
        check(done.returncode == status and done.stdout == b"", f"bfrun {' '.join(command)}: {done.returncode}")
    for words in ([], ["--no-such-option"], ["-n", "zero", "true"], ["-n", "1"]):
        done = bfrun(*words)
        check(done.returncode == 2 and done.stderr and not done.stdout, f"bfrun {' '.join(words)}: {done.returncode} {done.stderr[:100]}")
    done = bfrun(*where, "--", "cat", input=b"through a pipe\n")
    check(done.stdout == b"through a pipe\n", "standard input passes")

with socket.socket() as nobody:
    nobody.bind(("127.0.0.1", 0))
    done = subprocess.run([str(build.bin / "bfrun"), "--server", f"127.0.0.1:{nobody.getsockname()[1]}", "-n", "1", "--timeout", "1", "--", "true"],
                          capture_output=True, env=harness.clean_environment(), timeout=30)
check(done.returncode == 125 and done.stderr, f"no server there: {done.returncode} {done.stderr[-160:]}")
finish(check)
