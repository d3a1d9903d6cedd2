// Launches that must fail do so at the launch, with the driver's code, and leave the context healthy.
#include "e2e.h"

__global__ void add(int* x) { atomicAdd(x, 1); }
__global__ void large(int* x) {
  __shared__ int s[10000];
  s[threadIdx.x] = *x;
  __syncthreads();
  *x = s[31 - threadIdx.x];
}
__global__ void __launch_bounds__(64) bounded(int* x) { atomicAdd(x, 1); }

int main() {
  int* x;
  CHECK(cudaMalloc(&x, 4));
  CHECK(cudaMemset(x, 0, 4));
  std::printf("2048 threads: ");
  add<<<1, 2048>>>(x);
  SHOW(cudaGetLastError());
  SHOW(cudaGetLastError());
  std::printf("65 x 16 threads: ");
  add<<<1, dim3(65, 16)>>>(x);
  SHOW(cudaGetLastError());
  std::printf("z 65: ");
  add<<<1, dim3(1, 1, 65)>>>(x);
  SHOW(cudaGetLastError());
  std::printf("no blocks: ");
  add<<<0, 32>>>(x);
  SHOW(cudaGetLastError());
  std::printf("no threads: ");
  add<<<1, 0>>>(x);
  SHOW(cudaGetLastError());
  std::printf("grid y 65536: ");
  add<<<dim3(1, 65536), 32>>>(x);
  SHOW(cudaGetLastError());
  std::printf("1 MiB shared: ");
  add<<<1, 32, 1 << 20>>>(x);
  SHOW(cudaGetLastError());
  std::printf("48 KiB and a bit: ");
  add<<<1, 32, 48 * 1024 + 1>>>(x);
  SHOW(cudaGetLastError());
  std::printf("static and dynamic past 48 KiB: ");
  large<<<1, 32, 10000>>>(x);
  SHOW(cudaGetLastError());
  std::printf("past launch bounds: ");
  bounded<<<1, 65>>>(x);
  SHOW(cudaGetLastError());
  std::printf("not a kernel: ");
  SHOW(cudaLaunchKernel(reinterpret_cast<const void*>(&name_of), dim3(1), dim3(1), nullptr, 0, nullptr));
  SHOW(cudaGetLastError());
  SHOW(cudaFuncSetAttribute(add, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 30));
  SHOW(cudaGetLastError());
  std::printf("good launch: ");
  add<<<2, 32>>>(x);
  SHOW(cudaGetLastError());
  SHOW(cudaDeviceSynchronize());
  int value = 0;
  CHECK(cudaMemcpy(&value, x, 4, cudaMemcpyDeviceToHost));
  std::printf("%d\n", value);
}
