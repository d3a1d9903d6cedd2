// Two devices (skipped where there is one): current device per thread, copies between them, errors on the wrong one.
#include <thread>

#include "e2e.h"

__global__ void fill(int* x, int value) { x[threadIdx.x] = value + threadIdx.x; }

__global__ void last_of_shared(int* out, int n) {
  extern __shared__ int buffer[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) buffer[i] = i;
  __syncthreads();
  *out = buffer[n - 1];
}

int main() {
  int count = 0, current = -1;
  CHECK(cudaGetDeviceCount(&count));
  if (count < 2) {
    std::printf("skipped: one device\n");
    return 77;
  }
  int *x[2], host[64];
  cudaStream_t stream[2];
  for (int d = 0; d < 2; d++) {
    CHECK(cudaSetDevice(d));
    CHECK(cudaMalloc(&x[d], 64 * sizeof(int)));
    CHECK(cudaStreamCreate(&stream[d]));
    fill<<<1, 64, 0, stream[d]>>>(x[d], d * 1000);
  }
  std::thread([&] {
    CHECK(cudaGetDevice(&current));
    std::printf("another thread starts on device %d\n", current);
  }).join();
  for (int d = 0; d < 2; d++) {
    CHECK(cudaSetDevice(d));
    CHECK(cudaStreamSynchronize(stream[d]));
    cudaPointerAttributes attributes;
    CHECK(cudaPointerGetAttributes(&attributes, x[d]));
    std::printf("memory of device %d: says %d\n", d, attributes.device);
  }
  CHECK(cudaMemcpyPeer(x[0], 0, x[1], 1, 32 * sizeof(int)));
  CHECK(cudaMemcpy(host, x[0], sizeof(host), cudaMemcpyDeviceToHost));
  std::printf("%d %d %d\n", host[0], host[31], host[32]);
  CHECK(cudaMemcpy(x[1], x[0], sizeof(host), cudaMemcpyDefault));
  CHECK(cudaMemcpy(host, x[1], sizeof(host), cudaMemcpyDefault));
  std::printf("%d %d %d\n", host[0], host[31], host[32]);
  const int n = 14'000;  // more than what needs no asking for, which each device is asked for
  for (int d = 0; d < 2; d++) {
    CHECK(cudaSetDevice(d));
    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, last_of_shared));
    std::printf("device %d grants %d at first\n", d, attributes.maxDynamicSharedSizeBytes);
    CHECK(cudaFuncSetAttribute(last_of_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, n * sizeof(int)));
    last_of_shared<<<1, 128, n * sizeof(int)>>>(x[d], n);
    SHOW(cudaGetLastError());
    CHECK(cudaMemcpy(host, x[d], sizeof(int), cudaMemcpyDeviceToHost));
    std::printf("%d\n", host[0]);
  }
  CHECK(cudaSetDevice(0));
  fill<<<1, 64, 0, stream[1]>>>(x[0], 0);  // a stream of the other device
  SHOW(cudaGetLastError());
}
