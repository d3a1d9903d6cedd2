"""Does a tenant find what another left in the GPU's memory? `fill` writes a pattern to all memory of the lease, says so, and
waits for a line on standard input; `scan` says what stands in memory that it has not written. Needs the driver alone."""

import ctypes
import json
import os
import sys

PATTERN, PIECE, STEP, LOOK = 0xB0DEF00D, 256 << 20, 2 << 20, 64 << 10
driver = ctypes.CDLL("libcuda.so.1")


def must(name, *arguments):
    result = getattr(driver, name)(*arguments)
    assert result == 0, f"{name}: {result}"


context = ctypes.c_void_p()
must("cuInit", 0)
must("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
must("cuCtxSetCurrent", context)
pieces = []
address = ctypes.c_uint64()
while driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(PIECE)) == 0:
    pieces.append(address.value)
if sys.argv[1] == "fill":
    for piece in pieces:
        must("cuMemsetD32_v2", ctypes.c_uint64(piece), ctypes.c_uint(PATTERN), ctypes.c_size_t(PIECE // 4))
    must("cuCtxSynchronize")
    print(json.dumps({"filled": len(pieces) * PIECE, "pid": os.getpid()}), flush=True)
    sys.stdin.readline()
else:
    bytes_, zero, pattern = ctypes.create_string_buffer(LOOK), bytes(LOOK), PATTERN.to_bytes(4, "little")
    looked = written = found = 0
    for piece in pieces:
        for at in range(piece, piece + PIECE, STEP):
            must("cuMemcpyDtoH_v2", bytes_, ctypes.c_uint64(at), ctypes.c_size_t(LOOK))
            looked += 1
            written += bytes_.raw != zero
            found += pattern in bytes_.raw
    print(json.dumps({"looked": looked, "not zero": written, "found": found}), flush=True)
