// Adds up a million integers: every warp reduces with shuffles, every block with shared memory, and one atomic per
// block joins the results. A second pass over the per-block sums finds the largest one.
#include <algorithm>
#include <numeric>
#include <vector>

#include "check.h"

__global__ void sum(const int* values, int n, unsigned long long* total, int* block_sums) {
  __shared__ int warp_sums[32];
  int mine = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) mine += values[i];

  for (int step = 16; step > 0; step /= 2) mine += __shfl_down_sync(0xffffffff, mine, step);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x < 32) {
    mine = threadIdx.x < blockDim.x / 32 ? warp_sums[threadIdx.x] : 0;
    for (int step = 16; step > 0; step /= 2) mine += __shfl_xor_sync(0xffffffff, mine, step);
    if (threadIdx.x == 0) {
      block_sums[blockIdx.x] = mine;
      atomicAdd(total, (unsigned long long)mine);
    }
  }
}

__global__ void largest(const int* values, int n, int* result) {
  extern __shared__ int best[];
  best[threadIdx.x] = int(threadIdx.x) < n ? values[threadIdx.x] : 0;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) best[threadIdx.x] = max(best[threadIdx.x], best[threadIdx.x + half]);
    __syncthreads();
  }
  if (threadIdx.x == 0) *result = best[0];
}

int main() {
  const int n = 1 << 20, blocks = 64, threads = 256;
  std::vector<int> values(n);
  for (int i = 0; i < n; i++) values[i] = int(i * 7919u % 1009);

  int *device_values, *block_sums, *device_largest;
  unsigned long long* device_total;
  CHECK(cudaMalloc(&device_values, n * sizeof(int)));
  CHECK(cudaMalloc(&block_sums, blocks * sizeof(int)));
  CHECK(cudaMalloc(&device_largest, sizeof(int)));
  CHECK(cudaMalloc(&device_total, sizeof(unsigned long long)));
  CHECK(cudaMemset(device_total, 0, sizeof(unsigned long long)));
  CHECK(cudaMemcpy(device_values, values.data(), n * sizeof(int), cudaMemcpyHostToDevice));
  sum<<<blocks, threads>>>(device_values, n, device_total, block_sums);
  largest<<<1, 64, 64 * sizeof(int)>>>(block_sums, blocks, device_largest);
  CHECK(cudaGetLastError());

  unsigned long long total = 0;
  int best = 0;
  CHECK(cudaMemcpy(&total, device_total, sizeof(total), cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(&best, device_largest, sizeof(best), cudaMemcpyDeviceToHost));

  unsigned long long expected = std::accumulate(values.begin(), values.end(), 0ull);
  std::vector<int> expected_sums(blocks);
  for (int i = 0; i < n; i++) expected_sums[i / threads % blocks] += values[i];
  int expected_best = *std::max_element(expected_sums.begin(), expected_sums.end());
  bool good = total == expected && best == expected_best;
  std::printf("reduction: sum %llu, largest block %d: %s\n", total, best, good ? "correct" : "WRONG");
  return good ? 0 : 1;
}
