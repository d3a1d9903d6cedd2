// printf in kernels: conversions, order within one thread, and order against the program's own lines.
#include "e2e.h"

__global__ void hello(int launch) {
  printf("launch %d: %d %u %x %c %s %% %5.2f %e %lld %p\n", launch, -5, 7u, 255, 'z', "text", 3.14159, 1e-10, 1ll << 40,
         (void*)0x1234);
  for (int i = 0; i < 3; i++) printf("  line %d\n", i);
}

__global__ void many() {
  if (threadIdx.x % 64 == 0) printf("thread %d\n", threadIdx.x / 64);
}

int main() {
  for (int launch = 0; launch < 3; launch++) {
    std::printf("before %d\n", launch);
    std::fflush(stdout);
    hello<<<1, 1>>>(launch);
    CHECK(cudaDeviceSynchronize());
    std::printf("after %d\n", launch);
    std::fflush(stdout);
  }
  size_t bytes = 0;
  CHECK(cudaDeviceGetLimit(&bytes, cudaLimitPrintfFifoSize));
  std::printf("buffer at least 64 KiB: %d\n", bytes >= 65536);
  std::fflush(stdout);
  many<<<1, 64>>>();
  CHECK(cudaDeviceSynchronize());
}
