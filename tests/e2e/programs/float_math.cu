// Arithmetic in half, bfloat16, float and double: exact operations are printed as they are, approximate ones rounded.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "e2e.h"

__global__ void halves(float* out) {
  __half a = __float2half(1.5f + threadIdx.x), b = __float2half(0.25f);
  __half2 pair = __halves2half2(a, b);
  pair = __hfma2(pair, pair, pair);
  __nv_bfloat16 c = __float2bfloat16(3.14159f * (threadIdx.x + 1)), d = __float2bfloat16(0.5f);
  float* mine = out + threadIdx.x * 8;
  mine[0] = __half2float(a + b);
  mine[1] = __half2float(a * b);
  mine[2] = __half2float(a / b);
  mine[3] = __low2float(pair) + __high2float(pair);
  mine[4] = __bfloat162float(__hmul(c, d));
  mine[5] = __bfloat162float(__hadd(c, d));
  mine[6] = __half2float(__float2half_rz(2049.7f)) + __half2float(__float2half_ru(2049.1f));
  mine[7] = __hgt(a, b) ? __half2float(hsqrt(b)) : -1;
}

__global__ void exact(double* out) {
  double x = 1.0 + threadIdx.x * 0.37;
  float f = float(x);
  double* mine = out + threadIdx.x * 12;
  mine[0] = fma(x, x, -1.0);
  mine[1] = x / 3.0;
  mine[2] = sqrt(x);
  mine[3] = __dadd_rd(x, 1e-17) + __dmul_ru(x, 1.1);
  mine[4] = __fdiv_rn(f, 7.0f);
  mine[5] = __fsqrt_rz(f);
  mine[6] = rint(x * 10) + trunc(-x) + ceil(x) + floor(-x);
  mine[7] = double(__float2int_rz(f * 1e3f)) + double(__double2ll_rn(x * 1e9));
  mine[8] = fmin(x, 2.0) + fmaxf(f, 3.0f) + copysign(1.0, -x);
  mine[9] = ldexp(x, -3) + fmod(x, 0.7);
  mine[10] = __int_as_float(0x7f800000) > f ? 1 : 0;
  mine[11] = isnan(sqrt(-x)) + isinf(exp(800 * x));
}

__global__ void approximate(double* out) {
  double x = 0.1 + threadIdx.x * 0.5;
  float f = float(x);
  double* mine = out + threadIdx.x * 10;
  mine[0] = sin(x);
  mine[1] = exp(x);
  mine[2] = log(x);
  mine[3] = pow(x, 1.7);
  mine[4] = tanh(x);
  mine[5] = erf(x);
  mine[6] = sinf(f) + cosf(f);
  mine[7] = __expf(f) + __logf(f);
  mine[8] = rsqrtf(f) + cbrtf(f);
  mine[9] = powf(f, 0.3f) + atan2f(f, 2.0f);
}

int main() {
  void* memory;
  std::vector<float> f(8 * 8);
  std::vector<double> d(8 * 12);
  CHECK(cudaMalloc(&memory, 4096));
  halves<<<1, 8>>>(static_cast<float*>(memory));
  CHECK(cudaMemcpy(f.data(), memory, f.size() * sizeof(float), cudaMemcpyDeviceToHost));
  for (float value : f) std::printf("%a\n", value);
  exact<<<1, 8>>>(static_cast<double*>(memory));
  CHECK(cudaMemcpy(d.data(), memory, d.size() * sizeof(double), cudaMemcpyDeviceToHost));
  for (double value : d) std::printf("%a\n", value);
  approximate<<<1, 8>>>(static_cast<double*>(memory));
  CHECK(cudaMemcpy(d.data(), memory, 80 * sizeof(double), cudaMemcpyDeviceToHost));
  for (int i = 0; i < 80; i++) std::printf("%.4g\n", d[i]);
}
