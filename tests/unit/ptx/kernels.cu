// Kernels in ordinary CUDA C++, compiled to PTX for the engine's tests.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <mma.h>

#include <cassert>
#include <cstdio>

namespace cg = cooperative_groups;

__device__ int table[4] = {1, 2, 3, 4};
__device__ int* inside = &table[2];
__constant__ float coefficients[4] = {0.5f, 1.5f, 2.5f, 3.5f};

__device__ __noinline__ int plus_one(int a) { return a + 1; }
__device__ __noinline__ int twice(int a) { return a * 2; }
typedef int (*Function)(int);
__device__ Function functions[2] = {plus_one, twice};
__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__device__ __noinline__ int endless(int n, volatile int* v) {
  v[1] = n;
  return n == -1 ? 0 : endless(n + 1, v) ^ endless(n + 3, v);
}

struct Big {
  int a[10];
  double d;
};
__device__ __noinline__ Big changed(Big b, int k) {
  b.a[k] += 100;
  b.d *= 2;
  return b;
}

extern "C" {

__global__ void vector_add(float* c, const float* a, const float* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i] * coefficients[i & 3];
}

__global__ void reduce(float* out, const float* in, int n) {
  __shared__ float s[256];
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += in[i];
  s[threadIdx.x] = v;
  __syncthreads();
  for (int k = blockDim.x / 2; k > 0; k /= 2) {
    if (threadIdx.x < k) s[threadIdx.x] += s[threadIdx.x + k];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(out, s[0]);
}

__global__ void matmul(float* c, const float* a, const float* b, int n) {
  extern __shared__ float tile[];
  float *as = tile, *bs = tile + 256;
  int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 16 + ty, col = blockIdx.x * 16 + tx;
  float v = 0;
  for (int k = 0; k < n; k += 16) {
    as[ty * 16 + tx] = a[row * n + k + tx];
    bs[ty * 16 + tx] = b[(k + ty) * n + col];
    __syncthreads();
    for (int j = 0; j < 16; ++j) v += as[ty * 16 + j] * bs[j * 16 + tx];
    __syncthreads();
  }
  c[row * n + col] = v;
}

__global__ void calls(int* out, int n) {
  int i = threadIdx.x;
  out[i] = functions[i & 1](i) * 1000 + fibonacci(i % n) + *inside;
}

__global__ void structures(Big b, Big* out) { out[threadIdx.x] = changed(b, threadIdx.x % 10); }

__global__ void collatz(int* steps) {  // lanes leave the loop at different times
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned v = i + 1;
  int n = 0;
  while (v != 1) {
    v = v & 1 ? 3 * v + 1 : v / 2;
    ++n;
  }
  steps[i] = n;
}

__global__ void choose(int* out) {
  int i = threadIdx.x, v = 0;
  switch (i % 9) {
    case 0: v = 5; break;
    case 1: v = i * 3; break;
    case 2: v = out[i] + 7; break;
    case 3: v = __popc(i); break;
    case 4: v = i ^ 0x55; break;
    case 5: v = __clz(i); break;
    case 6: v = i / 3; break;
    case 7: v = -i; break;
    default: v = 99;
  }
  out[i] = v;
}

__global__ void warp_operations(int* out) {
  int lane = threadIdx.x & 31, v = lane * lane;
  int sum = v;
  for (int k = 16; k; k /= 2) sum += __shfl_xor_sync(~0u, sum, k);
  auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  int in_tile = cg::reduce(tile, lane, cg::plus<int>());
  int up = __shfl_up_sync(~0u, lane, 3, 16);
  unsigned ballot = __ballot_sync(~0u, lane % 3 == 0);
  unsigned same = __match_any_sync(~0u, lane / 5);
  int divergent = 0;
  if (lane & 1) divergent = __shfl_sync(0xaaaaaaaa, v, 31);
  else divergent = __reduce_add_sync(0x55555555, lane);
  int* o = out + threadIdx.x * 6;
  o[0] = sum, o[1] = in_tile, o[2] = up, o[3] = ballot, o[4] = same, o[5] = divergent;
}

__global__ void histogram(unsigned* bins, unsigned long long* total, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    atomicAdd(&bins[(i * 7) % 61], 1u);
    atomicAdd(total, (unsigned long long)i);
    atomicMax(&bins[62], (unsigned)i);
    atomicInc(&bins[63], 9);
  }
}

__global__ void spin_lock(int* lock, int rounds) {  // every lane takes the lock: needs independent progress
  for (int r = 0; r < rounds; ++r) {
    while (atomicCAS(lock, 0, 1) != 0) {
    }
    ((volatile int*)lock)[1]++;
    __threadfence();
    atomicExch(lock, 0);
  }
}

__global__ void grid_barrier(int* counter, int rounds) {
  auto grid = cg::this_grid();
  for (int r = 0; r < rounds; ++r) {
    atomicAdd(counter, 1);
    grid.sync();
    if (((volatile int*)counter)[0] != (r + 1) * (int)grid.size()) counter[1] = 1;
    grid.sync();
  }
}

__global__ void wait_for_last(volatile int* flag) {  // the first block waits for the last one
  if (blockIdx.x == 0) {
    while (*flag == 0) {
    }
    flag[1] = 7;
  } else if (blockIdx.x == gridDim.x - 1) {
    *flag = 1;
  }
}

__global__ void say(int n) {
  if (threadIdx.x == n) printf("thread %d of %u: %5.2f %s %lld %c%%|%-6d|%x\n", n, blockDim.x, 1.5 * n, "text", 1ll << 40, 'x', 42, 255u);
}
__global__ void check(int* v) { assert(v[threadIdx.x] == 0); }
__global__ void trap_if(int* v) {
  if (v[threadIdx.x]) __trap();
}
__global__ void out_of_bounds(int* v, int i) { v[i] = 1; }
__global__ void misaligned(char* v) { *(int*)(v + 1) = 1; }
__global__ void recurse_forever(int* v) { v[0] = endless(v[1], v); }
__global__ void allocate(int* out) {
  int* p = new int[threadIdx.x + 1];
  for (int i = 0; i <= threadIdx.x; ++i) p[i] = i;
  int s = 0;
  for (int i = 0; i <= threadIdx.x; ++i) s += p[i];
  out[threadIdx.x] = s;
  delete[] p;
}

__global__ void mathematics(double* d, float* f, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double x = d[i];
  float y = f[i];
  d[i] = sin(x) + pow(fabs(x), 0.3) + exp(-x) + erf(x) + log(fabs(x) + 1);
  f[i] = sinf(y) + powf(fabsf(y), 0.3f) + expf(-y) + tanhf(y) + y / 3.0f + sqrtf(fabsf(y));
}

__global__ void halves(__half* h, __nv_bfloat16* b) {
  int i = threadIdx.x;
  h[i] = hsqrt(h[i]) + __float2half(0.25f);
  __half2 two = __hfma2(__half2half2(h[i]), __float2half2_rn(2.0f), __float2half2_rn(1.0f));
  h[i] = __low2half(two);
  b[i] = __hfma(b[i], __float2bfloat16(2.0f), __float2bfloat16(1.0f));
}

__global__ void tensor_product(float* c, const __half* a, const __half* b) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __half, row_major> fa;
  fragment<matrix_b, 16, 16, 16, __half, col_major> fb;
  fragment<accumulator, 16, 16, 16, float> fc;
  fill_fragment(fc, 1.0f);
  load_matrix_sync(fa, a, 16);
  load_matrix_sync(fb, b, 16);
  mma_sync(fc, fa, fb, fc);
  store_matrix_sync(c, fc, 16, mem_row_major);
}

}  // extern "C"
