// A failed assert in a kernel: the line on stderr, the code, and that it stays.
#undef NDEBUG
#include <cassert>

#include "e2e.h"

__global__ void check(int value) { assert(value < 3); }

int main() {
  check<<<1, 1>>>(1);
  CHECK(cudaDeviceSynchronize());
  check<<<1, 1>>>(5);
  SHOW(cudaDeviceSynchronize());
  int* memory;
  SHOW(cudaMalloc(&memory, 4));
  SHOW(cudaGetLastError());
  SHOW(cudaGetLastError());
}
