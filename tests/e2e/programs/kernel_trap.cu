// A trap in a kernel ends the context.
#include "e2e.h"

__global__ void trap_if(int value) {
  if (value) __trap();
}

int main() {
  trap_if<<<1, 1>>>(0);
  CHECK(cudaDeviceSynchronize());
  trap_if<<<1, 32>>>(1);
  SHOW(cudaGetLastError());
  SHOW(cudaDeviceSynchronize());
  SHOW(cudaDeviceSynchronize());
  void* memory;
  SHOW(cudaMalloc(&memory, 4));
}
