"""What everybody says of the memory at one moment, as JSON: PyTorch, the runtime, the driver, NVML and nvidia-smi (its path is
the argument). Holds one GiB and waits for a line on standard input before it goes."""

import ctypes
import json
import subprocess
import sys

import torch

held = torch.ones(1 << 28, device="cuda")
torch.cuda.synchronize()


def pair(function):
    first, second = ctypes.c_size_t(), ctypes.c_size_t()
    assert function(ctypes.byref(first), ctypes.byref(second)) == 0
    return [first.value, second.value]


driver = ctypes.CDLL("libcuda.so.1")
total = ctypes.c_size_t()
assert driver.cuDeviceTotalMem_v2(ctypes.byref(total), 0) == 0
figures = {"torch": list(torch.cuda.mem_get_info()), "cudaMemGetInfo": [int(v) for v in torch.cuda.cudart().cudaMemGetInfo(0)], "cuMemGetInfo": pair(driver.cuMemGetInfo_v2),
           "cuDeviceTotalMem": total.value}
smi = subprocess.run([sys.argv[1], "--query-gpu=memory.total,memory.used,memory.free", "--format=csv,noheader,nounits"], capture_output=True, text=True)
figures["nvidia-smi"] = [int(value) for value in smi.stdout.split(",")]
try:
    import pynvml

    pynvml.nvmlInit()
    memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
    figures["pynvml"] = [memory.total, memory.used, memory.free]
except ImportError:
    pass
figures["count"], figures["load"] = torch.cuda.device_count(), None
try:
    figures["load"] = torch.cuda.utilization()
except ModuleNotFoundError:
    pass
print(json.dumps(figures), flush=True)
sys.stdin.readline()
