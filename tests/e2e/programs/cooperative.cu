// Cooperative groups: tiles, blocks and the grid's barrier; a grid that does not fit at once is refused.
#include <cooperative_groups.h>

#include "e2e.h"

namespace cg = cooperative_groups;

__global__ void rounds(int* values, int n, int count) {
  cg::grid_group grid = cg::this_grid();
  for (int r = 0; r < count; r++) {
    int i = int(grid.thread_rank());
    int next = 0;
    if (i < n) next = values[(i + 1) % n] + r;
    grid.sync();
    if (i < n) values[i] = next;
    grid.sync();
  }
}

__global__ void tiles(int* out) {
  cg::thread_block block = cg::this_thread_block();
  auto tile = cg::tiled_partition<8>(block);
  int sum = int(threadIdx.x);
  for (int step = tile.size() / 2; step > 0; step /= 2) sum += tile.shfl_down(sum, step);
  if (tile.thread_rank() == 0) out[block.thread_rank() / 8] = sum;
  auto group = cg::coalesced_threads();
  if (block.thread_rank() == 0) out[31] = int(group.size());
}

int main() {
  const int blocks = 4, threads = 64, n = blocks * threads;
  int *values, host[n], count = 20, size = n;
  CHECK(cudaMalloc(&values, n * sizeof(int)));
  for (int i = 0; i < n; i++) host[i] = i;
  CHECK(cudaMemcpy(values, host, sizeof(host), cudaMemcpyHostToDevice));
  void* arguments[] = {&values, &size, &count};
  CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(rounds), blocks, threads, arguments));
  CHECK(cudaMemcpy(host, values, sizeof(host), cudaMemcpyDeviceToHost));
  std::printf("grid: %d %d %016llx\n", host[0], host[n - 1], (unsigned long long)hash_bytes(host, sizeof(host)));
  CHECK(cudaMemset(values, 0, sizeof(host)));
  tiles<<<1, 128>>>(values);
  CHECK(cudaMemcpy(host, values, sizeof(host), cudaMemcpyDeviceToHost));
  for (int i = 0; i < 16; i++) std::printf("%d ", host[i]);
  std::printf("coalesced %d\n", host[31]);
  SHOW(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(rounds), 1'000'000, threads, arguments));
  SHOW(cudaGetLastError());
}
