// Attaches, allocates, computes and ends - or, with an argument, waits to be killed in the middle of it.
#include <unistd.h>

#include "e2e.h"

__global__ void fill(int* x) { x[threadIdx.x] = threadIdx.x; }

int main(int argc, char**) {
  int *x, host[32];
  CHECK(cudaMalloc(&x, 32 << 20));
  fill<<<1, 32>>>(x);
  CHECK(cudaMemcpy(host, x, sizeof(host), cudaMemcpyDeviceToHost));
  std::printf("%d\n", host[31]);
  std::fflush(stdout);
  while (argc > 1) {
    CHECK(cudaMemsetAsync(x, 1, 32 << 20));
    CHECK(cudaDeviceSynchronize());
  }
}
