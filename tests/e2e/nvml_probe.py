#!/usr/bin/env python3
"""Prints, as one JSON line, what NVML and the CUDA driver say of the same GPUs, before and after an allocation.

  nvml_probe.py [MIB [SECONDS]]   allocates MIB (default 64) on each device, and stays for SECONDS after printing

Needs nothing but Python: both libraries are found as any program finds them."""

import ctypes
import json
import os
import sys
import time

VERSION_2 = 40 | 2 << 24  # nvmlMemory_v2


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Memory2(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint), ("total", ctypes.c_ulonglong), ("reserved", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Process(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gi", ctypes.c_uint), ("ci", ctypes.c_uint)]


class Field(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint), ("scope", ctypes.c_uint), ("timestamp", ctypes.c_longlong), ("latency", ctypes.c_longlong),
                ("type", ctypes.c_uint), ("result", ctypes.c_uint), ("value", ctypes.c_ulonglong)]


POWER_MAX_LIMIT = 188  # NVML_FI_DEV_POWER_MAX_LIMIT


def must(name, result):
    if result:
        sys.exit(f"{name} returned {result}")


class Nvml:
    def __init__(self):
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self.call("nvmlInit_v2")

    def call(self, name, *arguments):
        must(name, getattr(self.library, name)(*arguments))

    def count(self):
        count = ctypes.c_uint()
        self.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return count.value

    def device(self, index):
        device = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device))
        return device

    def text(self, name, device):
        buffer = ctypes.create_string_buffer(96)
        self.call(name, device, buffer, 96)
        return buffer.value.decode()

    def bus(self, device):
        buffer = ctypes.create_string_buffer(68)
        self.call("nvmlDeviceGetPciInfo_v3", device, buffer)
        return buffer.raw[36:68].split(b"\0")[0].decode()

    def memory(self, device):
        first, second = Memory(), Memory2(VERSION_2)
        self.call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(first))
        self.call("nvmlDeviceGetMemoryInfo_v2", device, ctypes.byref(second))
        return {"v1": [first.total, first.used, first.free], "v2": [second.total, second.used + second.reserved, second.free]}

    def power_limits(self, device):
        """The greatest power limit as a function and as a field value tell it."""
        least, most, field = ctypes.c_uint(), ctypes.c_uint(), Field(POWER_MAX_LIMIT)
        self.call("nvmlDeviceGetPowerManagementLimitConstraints", device, ctypes.byref(least), ctypes.byref(most))
        self.call("nvmlDeviceGetFieldValues", device, 1, ctypes.byref(field))
        must("the field value", field.result)
        return [most.value, field.value]

    def processes(self, device):
        if not hasattr(self.library, "nvmlDeviceGetComputeRunningProcesses_v3"):
            return []  # the software GPU's own library has no processes
        count = ctypes.c_uint(64)
        infos = (Process * 64)()
        self.call("nvmlDeviceGetComputeRunningProcesses_v3", device, ctypes.byref(count), infos)
        found = []
        for info in infos[: count.value]:
            name = ctypes.create_string_buffer(256)
            self.library.nvmlSystemGetProcessName(info.pid, name, 256)
            found.append({"pid": info.pid, "used": info.used, "name": name.value.decode()})
        return found


class Cuda:
    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        self.contexts = []

    def call(self, name, *arguments):
        must(name, getattr(self.library, name)(*arguments))

    def count(self):
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def uuid(self, device):
        bytes_ = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid_v2", bytes_, device)
        text = bytes(bytes_).hex()
        return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    def name(self, device):
        buffer = ctypes.create_string_buffer(96)
        self.call("cuDeviceGetName", buffer, 96, device)
        return buffer.value.decode()

    def bus(self, device):
        buffer = ctypes.create_string_buffer(32)
        self.call("cuDeviceGetPCIBusId", buffer, 32, device)
        return buffer.value.decode()

    def total(self, device):
        total = ctypes.c_size_t()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
        return total.value

    def use(self, device):
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def allocate(self, mib):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(mib << 20))
        return address

    def memory(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return [total.value, total.value - free.value, free.value]


def main():
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    nvml, cuda = Nvml(), Cuda()
    report = {"pid": os.getpid(), "counts": [nvml.count(), cuda.count()], "devices": []}
    for index in range(cuda.count()):
        device = nvml.device(index)
        cuda.use(index)
        before = {"nvml": nvml.memory(device), "cuda": cuda.memory()}
        cuda.allocate(mib)
        after = {"cuda": cuda.memory(), "nvml": nvml.memory(device)}
        report["devices"].append({
            "uuid": [nvml.text("nvmlDeviceGetUUID", device), cuda.uuid(index)],
            "name": [nvml.text("nvmlDeviceGetName", device), cuda.name(index)],
            "bus": [nvml.bus(device), cuda.bus(index)],
            "power_limits": nvml.power_limits(device), "total": cuda.total(index), "before": before, "after": after, "processes": nvml.processes(device)})
    print(json.dumps(report), flush=True)
    time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)


if __name__ == "__main__":
    main()
