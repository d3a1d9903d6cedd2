"""The sandbox: a worker that serves a session has no privileges left, and programs run in it as anywhere."""

import os
import pathlib
import pwd
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import Checks, build_from_arguments, finish

build, check = build_from_arguments(), Checks()
as_root = os.geteuid() == 0
user = pwd.getpwnam("nobody") if as_root else pwd.getpwuid(os.geteuid())


def status_of(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, value in (line.split(":", 1) for line in lines)}


with harness.Server(build, software_gpus=1, extra=["--worker-user", "nobody"] if as_root else []) as server:
    for name in ("streams", "kernel_printf", "order_stress"):
        program, settings = programs.settings_of(name)
        command = [str(build.program(program)), *settings["args"]]
        native = harness.run_native(command, settings, [build.software])
        for transport in ("tcp", "shm"):
            difference = server.run(command, settings, transport).difference(native)
            check(not difference, f"{name} over {transport} in the sandbox equals native: {difference or 'yes'}")

    idle = server.sockets()
    holder = subprocess.Popen(server.bfrun([build.program("quota"), "hold", str(1 << 20), "20"]), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=harness.clean_environment())
    check(holder.stdout.readline() == b"hold: cudaSuccess\n", "a program holds memory")
    sockets = server.sockets()
    worker = max(sockets, key=sockets.get)
    check(sockets[worker] > max(idle.values(), default=0), f"its worker is process {worker}")
    status = status_of(worker)
    check(set(status["Uid"]) == {str(user.pw_uid)} and set(status["Gid"]) == {str(user.pw_gid)}, f"user and group are {user.pw_name}'s: {status['Uid']} {status['Gid']}")
    if as_root:
        check(status["Groups"] == [], f"no supplementary groups: {status['Groups']}")
        check(all(int(status[name][0], 16) == 0 for name in ("CapEff", "CapPrm", "CapAmb")), f"no capabilities: {status['CapEff']} {status['CapPrm']}")
    check(status["NoNewPrivs"] == ["1"], "it can gain no privileges")
    check(status["Seccomp"] == ["2"], "its system calls are filtered")
    tasks = [pathlib.Path(task, "status").read_text() for task in pathlib.Path(f"/proc/{worker}/task").iterdir()]
    check(all("Seccomp:\t2" in task for task in tasks), f"in all of its {len(tasks)} threads")
    holder.kill()
    holder.wait()
finish(check)
