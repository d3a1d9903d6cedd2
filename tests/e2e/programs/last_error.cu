// cudaGetLastError clears, cudaPeekAtLastError does not; good calls do not clear; names and texts.
#include "e2e.h"

__global__ void nothing() {}

int main() {
  void* memory;
  nothing<<<1, 1>>>();
  CHECK(cudaDeviceSynchronize());
  nothing<<<1, 4096>>>();
  SHOW(cudaPeekAtLastError());
  SHOW(cudaMalloc(&memory, 16));
  SHOW(cudaPeekAtLastError());
  SHOW(cudaGetLastError());
  SHOW(cudaGetLastError());
  SHOW(cudaMemcpy(memory, memory, 1, cudaMemcpyKind(9)));
  SHOW(cudaGetLastError());
  SHOW(cudaSetDevice(-1));
  SHOW(cudaGetLastError());
  for (int code : {0, 1, 2, 3, 4, 9, 100, 400, 600, 700, 716, 719, 999, 12345}) {
    std::printf("%d: %s: %s\n", code, cudaGetErrorName(cudaError_t(code)), cudaGetErrorString(cudaError_t(code)));
  }
}
