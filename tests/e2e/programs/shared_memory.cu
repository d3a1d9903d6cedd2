// Static and dynamic shared memory, more than 48 KiB by opting in, and barriers that count.
#include "e2e.h"

__global__ void reverse(int* x, int n) {
  extern __shared__ int buffer[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) buffer[i] = x[i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = buffer[n - 1 - i];
}

__global__ void counting(int* out) {
  __shared__ int flags[256];
  flags[threadIdx.x] = threadIdx.x % 5;
  __syncthreads();
  out[threadIdx.x] = __syncthreads_count(flags[(threadIdx.x + 1) % blockDim.x] == 2);
  out[threadIdx.x] +=
      1000 * (__syncthreads_or(threadIdx.x == 99) != 0) + 2000 * (__syncthreads_and(threadIdx.x < 255) != 0);
}

int main() {
  const int n = 14'000;
  std::vector<int> host(n);
  for (int i = 0; i < n; i++) host[i] = i;
  int* x;
  CHECK(cudaMalloc(&x, n * sizeof(int)));
  CHECK(cudaMemcpy(x, host.data(), n * sizeof(int), cudaMemcpyHostToDevice));
  reverse<<<1, 128, n * sizeof(int)>>>(x, n);
  SHOW(cudaGetLastError());
  SHOW(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, n * sizeof(int)));
  reverse<<<1, 128, n * sizeof(int)>>>(x, n);
  SHOW(cudaGetLastError());
  CHECK(cudaMemcpy(host.data(), x, n * sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("%d %d %d\n", host[0], host[5000], host[n - 1]);
  counting<<<1, 256>>>(x);
  CHECK(cudaMemcpy(host.data(), x, 256 * sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("%d %d\n", host[0], host[255]);
  cudaFuncAttributes attributes;
  CHECK(cudaFuncGetAttributes(&attributes, reverse));
  std::printf("opted in: %d, static %zu\n", attributes.maxDynamicSharedSizeBytes, attributes.sharedSizeBytes);
}
