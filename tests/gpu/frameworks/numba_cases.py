"""Numba-CUDA: kernels written in Python."""

import math
import sys

import numpy
from cases import case

# numba-cuda 0.30 asks for names that NumPy 2.5 no longer has.
for name, same in {"row_stack": "vstack", "trapz": "trapezoid", "in1d": "isin"}.items():
    if not hasattr(numpy, name):
        setattr(numpy, name, getattr(numpy, same))

try:
    from numba import cuda, float32, vectorize
except AttributeError as error:  # what else it may miss
    print(f"numba-cuda cannot be imported: {error}")
    sys.exit(77)

NUMBERS = numpy.arange(100000, dtype=numpy.float32)


@case("kernel")
def kernel():
    @cuda.jit
    def axpy(a, x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = a * x[i] + y[i]

    y = numpy.ones(100000, numpy.float32)
    axpy[391, 256](2.0, NUMBERS, y)
    assert (y == 2 * NUMBERS + 1).all()
    return y


@case("shared memory and barriers")
def shared():
    @cuda.jit
    def reverse(x):
        tile = cuda.shared.array(256, float32)
        tile[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        x[cuda.threadIdx.x] = tile[255 - cuda.threadIdx.x]

    x = cuda.to_device(NUMBERS[:256])
    reverse[1, 256](x)
    got = x.copy_to_host()
    assert (got == NUMBERS[:256][::-1]).all()
    return got


@case("atomics")
def atomics():
    @cuda.jit
    def count(x, bins):
        i = cuda.grid(1)
        if i < x.size:
            cuda.atomic.add(bins, int(x[i]) % 10, 1)

    bins = cuda.to_device(numpy.zeros(10, numpy.int32))
    count[391, 256](cuda.to_device(NUMBERS), bins)
    got = bins.copy_to_host()
    assert (got == 10000).all()
    return got


@case("vectorised function")
def vectorised():
    @vectorize(["float32(float32, float32)"], target="cuda")
    def hypotenuse(a, b):
        return math.sqrt(a * a + b * b)

    got = hypotenuse(NUMBERS, NUMBERS)
    assert numpy.allclose(got, numpy.hypot(NUMBERS, NUMBERS), rtol=1e-5)
    return got


@case("streams, events, pinned memory")
def streams():
    @cuda.jit
    def add_one(x):
        i = cuda.grid(1)
        if i < x.size:
            x[i] += 1

    stream = cuda.stream()
    with cuda.pinned(NUMBERS):
        x = cuda.to_device(NUMBERS, stream=stream)
        start, stop = cuda.event(), cuda.event()
        start.record(stream)
        for _ in range(5):
            add_one[391, 256, stream](x)
        stop.record(stream)
        got = x.copy_to_host(stream=stream)
        stream.synchronize()
    assert (got == NUMBERS + 5).all() and start.elapsed_time(stop) >= 0
    return got


@case("barriers of the whole grid")
def grid():
    @cuda.jit
    def rounds(x):
        group = cuda.cg.this_grid()
        i = cuda.grid(1)
        for _ in range(4):
            value = x[(i + 1) % x.size]
            group.sync()
            x[i] += value
            group.sync()

    x = numpy.arange(1024, dtype=numpy.int64)
    wanted = x.copy()
    rounds[8, 128](x)
    for _ in range(4):
        wanted = wanted + numpy.roll(wanted, -1)
    assert (x == wanted).all()
    return x
