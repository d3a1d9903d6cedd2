#!/usr/bin/env python3
"""Walks pynvml's read-only functions and prints, as JSON, the kind of each answer: "success" or NVML's error. Arguments are
device 0 and, for what else a function takes, small numbers; where pynvml has a special case, it is asked as pynvml asks. Each
function is called in a child of its own: the vendor's library crashes on some of these arguments."""

import inspect
import json
import os
import sys

try:
    import pynvml
except ImportError:
    sys.exit("pynvml is not installed")

# Not readings, or not comparable: they change something, wait, or name other machines' objects.
SKIP = ("Set", "Clear", "Reset", "Create", "Destroy", "Remove", "Modify", "Freeze", "Discover", "Wait", "Register", "Shutdown", "Init",
        "Activate", "Update", "Alloc", "Free", "SampleGet", "MetricsGet", "ReadWrite", "CPER", "Drain")
VALUES = {"type": 0, "sensor": 0, "index": 0, "link": 0, "fan": 0, "counter": 0, "errorType": 0, "counterType": 0, "locationType": 0,
          "clockType": 0, "clockId": 0, "pstate": 0, "profile": 0, "version": 2, "scope": 0, "pid": 1, "length": 96, "size": 64}


def arguments_of(function, device):
    chosen = []
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        if parameter.default is not inspect.Parameter.empty:
            break
        if name in ("handle", "device", "device1", "device2", "handle1", "handle2"):
            chosen.append(device)
        elif name in ("uuid",):
            chosen.append(pynvml.nvmlDeviceGetUUID(device))
        elif name in ("pciBusId",):
            chosen.append(pynvml.nvmlDeviceGetPciInfo(device).busId)
        elif name == "memoryClockMHz":
            chosen.append(pynvml.nvmlDeviceGetSupportedMemoryClocks(device)[0])
        elif name in ("fieldIds", "valuesArray"):
            chosen.append([pynvml.NVML_FI_DEV_ECC_CURRENT, pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION])
        elif name in VALUES:
            chosen.append(VALUES[name])
        else:
            chosen.append(0)
    return chosen


def kind_of(function, device):
    try:
        function(*arguments_of(function, device))
        return "success"
    except pynvml.NVMLError as error:
        return type(error).__name__ if type(error) is not pynvml.NVMLError else f"NVMLError {error.value}"
    except Exception as error:  # pynvml's own mistake about such arguments: the same on both sides
        return f"pynvml: {type(error).__name__}"


def main():
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    kinds = {}
    for name, function in sorted(vars(pynvml).items()):
        plain = name.replace("Settings", "").replace("Creatable", "")
        if not name.startswith("nvml") or not inspect.isfunction(function) or any(word in plain for word in SKIP):
            continue
        if not any(word in name for word in ("Get", "Is", "On", "Query", "Validate")):
            continue
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            pynvml.nvmlInit()  # the vendor's library knows that it was forked
            device = pynvml.nvmlDeviceGetHandleByIndex(0)
            os.write(writing, kind_of(function, device).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            kinds[name] = pipe.read() or "crash"
        os.waitpid(child, 0)
    print(json.dumps(kinds))


if __name__ == "__main__":
    main()
