#!/usr/bin/env python3
"""NVML under bfrun, on the software GPU: its figures are those of CUDA and of the lease; other tenants are invisible; `bf smi`
shows the same; natively the software NVML agrees with the software CUDA."""

import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import Checks, build_from_arguments, finish

MIB = 1 << 20
PROBE = str(pathlib.Path(__file__).resolve().parent.parent / "nvml_probe.py")
SETTINGS = {**programs.DEFAULTS, "timeout": 60}


def figures(run):
    return json.loads(run.stdout) if run.status == 0 else None


def agree(check, where, report, gpus, partition_mib):
    check(report is not None, f"{where}: the probe ran")
    if report is None:
        return
    check(report["counts"] == [gpus, gpus], f"{where}: device counts of NVML and CUDA: {report['counts']}")
    for index, device in enumerate(report["devices"]):
        name = f"{where}, device {index}"
        check(device["uuid"][0] == device["uuid"][1], f"{name}: UUIDs {device['uuid']}")
        check(device["name"][0] == device["name"][1], f"{name}: names {device['name']}")
        check(device["bus"][0].upper().endswith(device["bus"][1].upper()[4:]), f"{name}: PCI ids {device['bus']}")
        check(device["power_limits"][0] == device["power_limits"][1] > 0, f"{name}: power limits by function and by field {device['power_limits']}")
        check(device["total"] == partition_mib * MIB, f"{name}: total {device['total'] // MIB} MiB")
        for moment in ("before", "after"):
            cuda, nvml = device[moment]["cuda"], device[moment]["nvml"]
            check(nvml["v1"] == cuda and nvml["v2"] == cuda, f"{name}: memory {moment} the allocation: NVML {nvml}, CUDA {cuda}")
        grown = device["after"]["cuda"][1] - device["before"]["cuda"][1]
        check(grown == 64 * MIB, f"{name}: the allocation shows as {grown // MIB} MiB")


def run_native(build):
    environment = {**harness.clean_environment(), "LD_LIBRARY_PATH": str(build.software), "BF_SOFTGPU_COUNT": "2", "BF_SOFTGPU_MEMORY_MIB": "1024"}
    return subprocess.run([sys.executable, PROBE], env=environment, capture_output=True, timeout=60)


def bf(build, *arguments):
    done = subprocess.run([str(build.bin / "bf"), *arguments], env=harness.clean_environment(), capture_output=True, text=True, timeout=30)
    return done.stdout if done.returncode == 0 else done.stderr


build, check = build_from_arguments(), Checks()

native = run_native(build)
agree(check, "native", json.loads(native.stdout) if native.returncode == 0 else None, 2, 1024)

with harness.Server(build, software_gpus=2) as server:
    for transport in ("tcp", "shm"):
        run = server.run([sys.executable, PROBE], SETTINGS, transport, gpus=2, memory_mib=2048)
        report = figures(run)
        agree(check, transport, report, 2, 2048)
        for index, device in enumerate(report["devices"] if report else []):
            mine = [p for p in device["processes"] if p["pid"] == report["pid"]]
            check(len(device["processes"]) == 1 and len(mine) == 1, f"{transport}, device {index}: its processes {device['processes']}")
            check(bool(mine) and mine[0]["name"].startswith("python") and mine[0]["used"] == device["after"]["cuda"][1],
                  f"{transport}, device {index}: the process and what it uses: {mine}")

    # NVML shows the lease, whatever the program chose of it for CUDA; the memory it uses shows on that device.
    script = "import json,sys;sys.path.insert(0,%r);import nvml_probe;n=nvml_probe.Nvml();c=nvml_probe.Cuda();c.use(0);c.allocate(64);" \
             "d=[n.device(i) for i in range(n.count())];print(json.dumps({'nvml':[n.text('nvmlDeviceGetUUID',x) for x in d]," \
             "'cuda':[c.uuid(i) for i in range(c.count())],'used':[n.memory(x)['v1'][1]>>20 for x in d]}))" % str(pathlib.Path(PROBE).parent)
    for visible, order in (("1", [1]), ("1,0", [1, 0]), ("0", [0])):
        run = server.run([sys.executable, "-c", script], {**SETTINGS, "env": {"CUDA_VISIBLE_DEVICES": visible}}, gpus=2, memory_mib=2048)
        seen = figures(run)
        check(seen is not None and len(seen["nvml"]) == 2 and seen["cuda"] == [seen["nvml"][i] for i in order],
              f"CUDA_VISIBLE_DEVICES={visible}: NVML and CUDA show {seen}")
        check(seen is not None and seen["used"][order[0]] >= 64 and seen["used"][1 - order[0]] == 0,
              f"CUDA_VISIBLE_DEVICES={visible}: memory used by NVML's device {seen and seen['used']}")

    # Another tenant of the same cards: its memory and its processes are nowhere.
    tenant = subprocess.Popen(server.bfrun([sys.executable, PROBE, "500", "20"], gpus=2, memory_mib=1024), env=harness.clean_environment(), stdout=subprocess.PIPE)
    check(bool(tenant.stdout.readline()), "another tenant is at work")
    run = server.run([sys.executable, PROBE], SETTINGS, gpus=1, memory_mib=2048)
    agree(check, "beside a tenant", figures(run), 1, 2048)
    check(run.status == 0 and len(figures(run)["devices"][0]["processes"]) == 1, "beside a tenant: its processes are invisible")

    run = server.run([build.bin / "bf", "smi", "--json"], SETTINGS, gpus=1, memory_mib=2048)
    smi = json.loads(run.stdout) if run.status == 0 else {"gpus": []}
    check(len(smi["gpus"]) == 1 and smi["gpus"][0]["memory_mib"] == 2048 and smi["gpus"][0]["processes"] == [], f"bf smi in a lease: {smi}")
    check(bool(smi["gpus"]) and smi["gpus"][0]["temperature_c"] == 30 and smi["gpus"][0]["power_mw"] == 50000, "bf smi in a lease: temperature and power")
    pool = json.loads(bf(build, "smi", "--json", "--server", server.address))
    gpus = pool["servers"][0].get("gpus", [])
    check([gpu["used_mib"] >= 500 for gpu in gpus] == [True, True], f"bf smi of the pool counts what leases use: {[gpu['used_mib'] for gpu in gpus]}")
    check(all(gpu["temperature_c"] == 30 for gpu in gpus) and "processes" not in gpus[0], "bf smi of the pool: temperatures, and nobody's processes")
    table = bf(build, "smi", "--server", server.address)
    check("Software GPU" in table and "\033" not in table and len(table.splitlines()) == 3, "bf smi of the pool: a table, without colours where no terminal is")
    tenant.terminate()
    tenant.wait()

    # The monitor's answers do not change what a program sees when the server ends.
    environment = harness.clean_environment()
    script = "import sys,time;sys.path.insert(0,%r);import nvml_probe,ctypes;n=nvml_probe.Nvml();d=n.device(0);print('up',flush=True);sys.stdin.readline();" \
             "t=time.monotonic();m=nvml_probe.Memory();print(n.library.nvmlDeviceGetMemoryInfo(d,ctypes.byref(m)),time.monotonic()-t<3,flush=True)" % str(pathlib.Path(PROBE).parent)
    program = subprocess.Popen(server.bfrun([sys.executable, "-c", script]), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    check(program.stdout.readline() == b"up\n", "a program that only reads NVML")
    server.process.kill()
    server.process.wait()
    output = program.communicate(b"\n", timeout=20)[0]
    check(output == b"15 True\n", f"the server is gone: GPU_IS_LOST, promptly: {output}")
finish(check)
