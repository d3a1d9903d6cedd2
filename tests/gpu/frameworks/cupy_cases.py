"""CuPy: kernels of one's own, libraries, memory pools, streams, graphs."""

import cupy
import numpy
from cases import case, close

NUMBERS = numpy.random.default_rng(1)
A, B = NUMBERS.standard_normal((64, 48)).astype("f"), NUMBERS.standard_normal((48, 32)).astype("f")
SYMMETRIC = (A.T @ A + 48 * numpy.eye(48)).astype("f")


@case("RawKernel")
def raw_kernel():
    square = cupy.RawKernel('extern "C" __global__ void square(long long* x, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= x[i]; }', "square")
    a = cupy.arange(100000, dtype=cupy.int64)
    square((1000,), (100,), (a, 100000))
    assert (a.get() == numpy.arange(100000) ** 2).all()
    return a, square.num_regs > 0, square.max_threads_per_block


@case("RawModule with templates and constants")
def raw_module():
    code = "__constant__ float factor[1]; template <typename T> __global__ void scale(T* x) { x[threadIdx.x] = x[threadIdx.x] * factor[0]; }"
    module = cupy.RawModule(code=code, options=("--std=c++17",), name_expressions=["scale<float>", "scale<double>"])
    module.compile()
    constant = cupy.ndarray(1, cupy.float32, module.get_global("factor"))
    constant[0] = 3
    x, y = cupy.arange(64, dtype="f"), cupy.arange(64, dtype="d")
    module.get_function("scale<float>")((1,), (64,), (x,))
    module.get_function("scale<double>")((1,), (64,), (y,))
    assert (x == 3 * cupy.arange(64)).all() and (y == x).all()
    return x, y


@case("elementwise and reduction kernels")
def made_kernels():
    add = cupy.ElementwiseKernel("T x, T y", "T z", "z = x + 2 * y", "add_twice")
    norm = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "root_of_squares")
    x = cupy.asarray(A)
    close(norm(x).get(), numpy.linalg.norm(A))
    return add(x, x), norm(x, axis=0)


@case("fused function")
def fused():
    @cupy.fuse()
    def function(x, y):
        return cupy.sqrt(x * x + y * y) + 1

    got = function(cupy.asarray(A), cupy.asarray(A))
    close(got.get(), numpy.sqrt(2 * A * A) + 1)
    return got


@case("kernels written in Python")
def jit():
    from cupyx import jit

    @jit.rawkernel()
    def twice(x, y, n):
        i = jit.blockIdx.x * jit.blockDim.x + jit.threadIdx.x
        if i < n:
            y[i] = x[i] * 2

    x, y = cupy.arange(1000, dtype="f"), cupy.zeros(1000, dtype="f")
    twice((8,), (128,), (x, y, numpy.int32(1000)))
    assert (y == 2 * x).all()
    return y


@case("matrix products")
def products():
    got = cupy.asarray(A) @ cupy.asarray(B)
    close(got.get(), A @ B)
    return got, cupy.einsum("ij,ik->jk", cupy.asarray(A), cupy.asarray(A)), cupy.dot(cupy.asarray(A[0]), cupy.asarray(A[1]))


@case("fft")
def fft():
    got = cupy.fft.fft2(cupy.asarray(A))
    close(got.get(), numpy.fft.fft2(A), 1e-2)
    return got, cupy.fft.irfft(cupy.fft.rfft(cupy.asarray(A))), cupy.fft.fft(cupy.ones((8, 100)), axis=0)


@case("solve and inverse")
def solve():
    got = cupy.linalg.solve(cupy.asarray(SYMMETRIC), cupy.ones(48, "f"))
    close(SYMMETRIC @ got.get(), numpy.ones(48))
    return got, cupy.linalg.inv(cupy.asarray(SYMMETRIC)), cupy.linalg.cholesky(cupy.asarray(SYMMETRIC))


@case("svd, qr, eigenvalues")
def decompositions():
    singular = cupy.linalg.svd(cupy.asarray(A), compute_uv=False)
    close(singular.get(), numpy.linalg.svd(A, compute_uv=False))
    return singular, cupy.linalg.qr(cupy.asarray(A))[1], cupy.linalg.eigvalsh(cupy.asarray(SYMMETRIC))


@case("sparse matrices")
def sparse():
    from cupyx.scipy import sparse

    dense = numpy.where(A > 0.5, numpy.round(A * 4), 0).astype("f")
    matrix = sparse.csr_matrix(cupy.asarray(dense))
    x = cupy.arange(48, dtype="f")
    close((matrix @ x).get(), dense @ numpy.arange(48, dtype="f"))
    return matrix @ x, (matrix @ matrix.T).toarray(), matrix.tocoo().data


@case("sorting, scans, sets")
def sorting():
    x = NUMBERS.integers(-1000, 1000, 20000)
    device = cupy.asarray(x)
    assert (cupy.sort(device).get() == numpy.sort(x)).all() and (cupy.cumsum(device).get() == x.cumsum()).all()
    return cupy.sort(device), cupy.argsort(device, kind="stable"), cupy.unique(device), cupy.bincount(device + 1000), cupy.partition(device, 500)[:500].sum()


@case("random numbers")
def random():
    generator = cupy.random.default_rng(42)
    cupy.random.seed(7)
    return generator.random(1000), generator.integers(0, 100, 1000), cupy.random.normal(size=1000), cupy.random.permutation(200)


@case("memory pool")
def pool():
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        blocks = [cupy.zeros(1 << i, "b") for i in range(10, 24)]
        used, total = pool.used_bytes(), pool.total_bytes()
        del blocks
        pool.free_all_blocks()
    assert used <= total and pool.used_bytes() == 0
    return used, pool.total_bytes()


@case("stream-ordered pool")
def async_pool():
    with cupy.cuda.using_allocator(cupy.cuda.MemoryAsyncPool().malloc):
        total = sum(int((cupy.arange(100000) + i).sum()) for i in range(5))
    assert total == sum(sum(range(100000)) + 100000 * i for i in range(5))
    return total


@case("managed memory")
def managed():
    with cupy.cuda.using_allocator(cupy.cuda.MemoryPool(cupy.cuda.malloc_managed).malloc):
        x = cupy.arange(50000)
        return x * 2


@case("pinned memory and copies in streams")
def pinned():
    import cupyx

    host = cupyx.empty_pinned(100000, dtype="f")
    host[:] = numpy.arange(100000)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.empty(100000, "f")
        x.set(host)
        y = x * 2
        back = cupyx.empty_pinned(100000, dtype="f")
        y.get(out=back, blocking=False)
    stream.synchronize()
    assert (back == host * 2).all()
    return numpy.array(back)


@case("events")
def events():
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    cupy.ones((500, 500)) @ cupy.ones((500, 500))
    stop.record()
    stop.synchronize()
    return cupy.cuda.get_elapsed_time(start, stop) > 0, stop.done


@case("captured graph")
def graph():
    x = cupy.zeros(1000, "f")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x + 1  # compiled before
        stream.begin_capture()
        cupy.add(x, 1, out=x)
        graph = stream.end_capture()
        for _ in range(10):
            graph.launch()
    stream.synchronize()
    assert (x == 10).all()
    return x


@case("callbacks from a stream")
def callbacks():
    seen = []
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.launch_host_func(seen.append, "called")
    stream.synchronize()
    return seen


@case("textures")
def textures():
    from cupy.cuda import runtime, texture

    code = 'extern "C" __global__ void read(cudaTextureObject_t t, float* out) { out[threadIdx.y * 8 + threadIdx.x] = tex2D<float>(t, threadIdx.x + 0.5f, threadIdx.y + 0.5f); }'
    image = numpy.arange(64, dtype="f").reshape(8, 8)
    array = texture.CUDAarray(texture.ChannelFormatDescriptor(32, 0, 0, 0, runtime.cudaChannelFormatKindFloat), 8, 8)
    array.copy_from(image)
    sampler = texture.TextureDescriptor((runtime.cudaAddressModeClamp, runtime.cudaAddressModeClamp), runtime.cudaFilterModePoint, runtime.cudaReadModeElementType)
    view = texture.TextureObject(texture.ResourceDescriptor(runtime.cudaResourceTypeArray, cuArr=array), sampler)
    out = cupy.zeros((8, 8), "f")
    cupy.RawKernel(code, "read")((1,), (8, 8), (view, out))
    assert (out.get() == image).all()
    return out


@case("cooperative kernel")
def cooperative():
    code = """#include <cooperative_groups.h>
    extern "C" __global__ void rounds(unsigned* x) {
      auto grid = cooperative_groups::this_grid();
      for (int i = 0; i < 5; i++) { unsigned next = x[(blockIdx.x + 1) % gridDim.x]; grid.sync(); if (threadIdx.x == 0) x[blockIdx.x] += next; grid.sync(); }
    }"""
    x = cupy.arange(16, dtype=cupy.uint32)
    cupy.RawKernel(code, "rounds", enable_cooperative_groups=True)((16,), (32,), (x,))
    wanted = numpy.arange(16, dtype=numpy.uint32)
    for _ in range(5):
        wanted = wanted + numpy.roll(wanted, -1)
    assert (x.get() == wanted).all()
    return x


@case("broken source")
def broken():
    try:
        cupy.RawKernel('extern "C" __global__ void k() { nonsense; }', "k").compile()
    except cupy.cuda.compiler.CompileException as error:
        return "nonsense" in str(error)


@case("memory figures")
def figures():
    free, total = cupy.cuda.runtime.memGetInfo()
    assert 0 < free <= total
    return cupy.cuda.Device(0).compute_capability, cupy.cuda.runtime.runtimeGetVersion() > 0
