// Ends with work in flight and nothing cleaned up; an exit handler and a static destructor still call CUDA.
#include "e2e.h"

__global__ void spin(unsigned* x, int rounds) {
  for (int i = 0; i < rounds; i++) *x = *x * 3 + i;
}

static unsigned* memory;
struct AtEnd {
  ~AtEnd() {
    cudaFree(memory);
    std::printf("destructor came through\n");
  }
} at_end;

int main() {
  CHECK(cudaMalloc(&memory, 4));
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  std::atexit([] {
    cudaDeviceSynchronize();
    std::printf("exit handler came through\n");
  });
  spin<<<1, 32, 0, stream>>>(memory, 1000);
  std::printf("leaving main\n");
  return 42;
}
