// A write far out of bounds: reported by the next call that waits, and by every call after it.
#include "e2e.h"

__global__ void store(int* x, long long at) { x[at] = 1; }

int main() {
  int* x;
  cudaStream_t stream;
  cudaEvent_t event;
  CHECK(cudaMalloc(&x, 4));
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaEventCreate(&event));
  store<<<1, 1, 0, stream>>>(x, 0);
  SHOW(cudaStreamSynchronize(stream));
  store<<<1, 1, 0, stream>>>(x, 1ll << 38);
  SHOW(cudaGetLastError());
  SHOW(cudaStreamSynchronize(stream));
  SHOW(cudaStreamSynchronize(stream));
  int host;
  SHOW(cudaMemcpy(&host, x, 4, cudaMemcpyDeviceToHost));
  SHOW(cudaMalloc(&x, 4));
  SHOW(cudaEventRecord(event, stream));
  SHOW(cudaStreamQuery(stream));
  store<<<1, 1>>>(x, 0);
  SHOW(cudaGetLastError());
  int count = 0;
  SHOW(cudaGetDeviceCount(&count));
}
