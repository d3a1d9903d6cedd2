"""CuPy: an exact sum, a kernel of one's own, a sort."""
import cupy

a = cupy.arange(100000, dtype=cupy.int64)
print("sum", int(a.sum()))
square = cupy.RawKernel('extern "C" __global__ void square(long long* x, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= x[i]; }', "square")
square((1000,), (100,), (a, 100000))
print("squares", int(a.sum()), "sorted", bool((cupy.sort(a[::-1]) == a).all()))
