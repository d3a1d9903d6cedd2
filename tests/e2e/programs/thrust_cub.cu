// A little Thrust and CUB: sort, scan, reduce, and a block-wide CUB reduction.
#include <thrust/device_vector.h>
#include <thrust/reduce.h>
#include <thrust/scan.h>
#include <thrust/sort.h>

#include <cub/cub.cuh>

#include "e2e.h"

__global__ void block_sum(const int* in, int* out) {
  using Reduce = cub::BlockReduce<int, 128>;
  __shared__ typename Reduce::TempStorage storage;
  int sum = Reduce(storage).Sum(in[threadIdx.x]);
  if (threadIdx.x == 0) *out = sum;
}

int main() {
  const int n = 1000;
  thrust::device_vector<int> v(n);
  for (int i = 0; i < n; i += 50) v[i] = (i * 37) % 101;
  std::vector<int> host(n);
  for (int i = 0; i < n; i++) host[i] = (i * 7919 + 13) % 1009;
  v = host;
  thrust::sort(v.begin(), v.end());
  int first = v[0], last = v[n - 1];
  std::printf("sorted: %d .. %d\n", first, last);
  thrust::inclusive_scan(v.begin(), v.end(), v.begin());
  std::printf("scan: %d\n", int(v[n - 1]));
  std::printf("reduce: %lld\n", (long long)thrust::reduce(v.begin(), v.end(), 0ll));
  int* result;
  CHECK(cudaMalloc(&result, sizeof(int)));
  block_sum<<<1, 128>>>(thrust::raw_pointer_cast(v.data()), result);
  int sum = 0;
  CHECK(cudaMemcpy(&sum, result, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("block: %d, all %016llx\n", sum,
              (unsigned long long)hash_device(thrust::raw_pointer_cast(v.data()), n * sizeof(int)));
}
