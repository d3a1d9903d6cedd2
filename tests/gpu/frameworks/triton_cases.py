"""Triton kernels: pointwise, softmax, a tuned product, atomics, a scan, tensor descriptors."""

import os
import tempfile

FOLDER = tempfile.TemporaryDirectory()
os.environ["TRITON_CACHE_DIR"] = FOLDER.name  # every run compiles
import torch
import triton
import triton.language as tl
from cases import Skip, case, close

torch.manual_seed(1)


@triton.jit
def add_kernel(x, y, z, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(z + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


@case("vector add")
def add():
    x, y = torch.randn(98432, device="cuda"), torch.randn(98432, device="cuda")
    z = torch.empty_like(x)
    add_kernel[(triton.cdiv(98432, 1024),)](x, y, z, 98432, BLOCK=1024)
    assert torch.equal(z, x + y)
    return z


@triton.jit
def softmax_kernel(x, y, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0) * columns
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row + at, mask=at < columns, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row + at, powers / tl.sum(powers, axis=0), mask=at < columns)


@case("softmax")
def softmax():
    x = torch.randn(200, 781, device="cuda")
    y = torch.empty_like(x)
    softmax_kernel[(200,)](x, y, 781, BLOCK=1024)
    close(y.cpu(), torch.softmax(x, 1).cpu(), 1e-5)
    return y


@triton.autotune(configs=[triton.Config({"BM": m, "BN": n, "BK": 32}, num_warps=w, num_stages=s) for m, n, w, s in ((32, 32, 4, 2), (64, 64, 4, 3), (64, 32, 8, 2))], key=["m", "n", "k"])
@triton.jit
def product_kernel(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows, columns, inner = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        left = tl.load(a + rows[:, None] * k + start + inner[None, :])
        right = tl.load(b + (start + inner)[:, None] * n + columns[None, :])
        total += tl.dot(left, right)
    tl.store(c + rows[:, None] * n + columns[None, :], total)


@case("product, tuned by the clock")
def product():
    a, b = torch.randint(-3, 4, (256, 128), device="cuda").half(), torch.randint(-3, 4, (128, 192), device="cuda").half()
    c = torch.empty(256, 192, device="cuda")
    product_kernel[lambda meta: (256 // meta["BM"], 192 // meta["BN"])](a, b, c, 256, 192, 128)
    assert torch.equal(c.cpu(), a.float().cpu() @ b.float().cpu())  # whole numbers: exact whatever was chosen
    return c


@triton.jit
def count_kernel(x, counts, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(counts + tl.load(x + at, mask=at < n, other=0), 1, mask=at < n)


@case("atomics")
def atomics():
    x = torch.randint(0, 50, (100000,), device="cuda")
    counts = torch.zeros(50, dtype=torch.int32, device="cuda")
    count_kernel[(triton.cdiv(100000, 256),)](x, counts, 100000, BLOCK=256)
    assert torch.equal(counts.long(), torch.bincount(x, minlength=50))
    return counts


@triton.jit
def scan_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.cumsum(tl.load(x + at), 0))


@case("scan")
def scan():
    x = torch.randint(-5, 6, (2048,), device="cuda")
    y = torch.empty_like(x)
    scan_kernel[(1,)](x, y, BLOCK=2048)
    assert torch.equal(y, x.cumsum(0))
    return y


@triton.jit
def tile_kernel(x, y, rows, columns, BLOCK: tl.constexpr):
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target = tl.make_tensor_descriptor(y, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    at = [tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK]
    target.store(at, source.load(at) * 2)


@case("tensor descriptors made on the device")
def descriptors():
    if torch.cuda.get_device_capability() < (9, 0):
        raise Skip("needs compute capability 9.0")
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
    x = torch.randn(128, 128, device="cuda")
    y = torch.empty_like(x)
    tile_kernel[(4, 4)](x, y, 128, 128, BLOCK=32)
    assert torch.equal(y, 2 * x)
    return y


@case("measured by do_bench")
def bench():
    return triton.testing.do_bench(lambda: torch.ones(1000, device="cuda"), warmup=2, rep=5) > 0
