// Occupancy questions.
#include "e2e.h"

__global__ void plain(float* x) { x[threadIdx.x] *= 2; }
__global__ void hungry(float* x) {
  __shared__ float s[8192];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}

int main() {
  for (int threads : {32, 64, 100, 256, 512, 1024}) {
    int a = 0, b = 0, c = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&a, plain, threads, 0));
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&b, plain, threads, 20'000));
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&c, hungry, threads, 0,
                                                                 cudaOccupancyDisableCachingOverride));
    std::printf("%d threads: %d, %d, %d blocks\n", threads, a, b, c);
  }
  int grid = 0, block = 0;
  CHECK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, plain, 0, 0));
  std::printf("best: grid %d, block %d\n", grid, block);
  size_t bytes = 0;
  CHECK(cudaOccupancyAvailableDynamicSMemPerBlock(&bytes, plain, 2, 128));
  std::printf("dynamic shared for two blocks: %zu\n", bytes);
  int count = 0;
  SHOW(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, plain, 4096, 0));
  std::printf("%d\n", count);
}
