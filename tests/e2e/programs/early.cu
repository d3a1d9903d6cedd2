// CUDA from a static constructor, before main; and from threads that end before others begin.
#include <thread>

#include "e2e.h"

__global__ void add(int* x) { atomicAdd(x, 1); }

struct Early {
  int* x;
  Early() {
    CHECK(cudaMalloc(&x, sizeof(int)));
    CHECK(cudaMemset(x, 0, sizeof(int)));
    add<<<1, 1>>>(x);
  }
} early;

int main() {
  for (int i = 0; i < 50; i++) {
    std::thread([] {
      add<<<1, 2>>>(early.x);
      CHECK(cudaDeviceSynchronize());
    }).join();
  }
  int value = 0;
  CHECK(cudaMemcpy(&value, early.x, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("%d\n", value);
}
