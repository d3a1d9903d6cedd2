// Works until told otherwise by a signal; prints the first error it gets. Arguments: seconds, MiB held.
#include <unistd.h>

#include <chrono>

#include "e2e.h"

__global__ void work(unsigned* x) { x[threadIdx.x] = x[threadIdx.x] * 3u + 1; }

int main(int argc, char** argv) {
  double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  size_t bytes = size_t(argc > 2 ? std::atoi(argv[2]) : 1) << 20;
  unsigned* x;
  CHECK(cudaMalloc(&x, bytes));
  CHECK(cudaMemset(x, 0, bytes));
  CHECK(cudaDeviceSynchronize());
  std::printf("working\n");
  std::fflush(stdout);
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  long rounds = 0;
  cudaError_t error = cudaSuccess;
  for (; error == cudaSuccess && std::chrono::steady_clock::now() < end; rounds++) {
    work<<<1, 32>>>(x);
    error = cudaDeviceSynchronize();
    usleep(2000);
  }
  std::printf("%s: %s\n", rounds > 0 ? "worked" : "did nothing", name_of(error));
  return error != cudaSuccess;
}
