// Copies behind more launches than a driver queues, of more bytes than any ring or staging holds. All of it arrives, in order.
#include <algorithm>

#include "e2e.h"

// Takes its time, and counts words that are not as expected.
__global__ void look(unsigned* wrong, const unsigned* data, size_t words, unsigned expected) {
  const long long start = clock64();
  for (size_t i = threadIdx.x; i < words; i += words / 8) wrong[threadIdx.x] += data[i] != expected;
  while (clock64() - start < 200'000) {  // 0.1 ms
  }
}

int main() {
  const size_t bytes = 400 << 20, words = bytes / sizeof(unsigned);
  const unsigned batches = 3, launches = 1100, threads = 32;
  unsigned *host, *device, *wrong, found[threads], sum = 0;
  CHECK(cudaMallocHost(&host, bytes));
  std::fill(host, host + words, 1);
  CHECK(cudaMalloc(&device, bytes));
  CHECK(cudaMalloc(&wrong, sizeof found));
  CHECK(cudaMemset(wrong, 0, sizeof found));
  for (unsigned batch = 0; batch < batches; ++batch) {
    CHECK(cudaMemsetAsync(device, 0, bytes));
    for (unsigned i = 0; i < launches; ++i) look<<<1, threads>>>(wrong, device + i, words - launches, 0);
    CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice));
    for (unsigned i = 0; i < launches; ++i) look<<<1, threads>>>(wrong, device + i, words - launches, 1);
  }
  CHECK(cudaMemcpy(found, wrong, sizeof found, cudaMemcpyDeviceToHost));
  for (unsigned count : found) sum += count;
  std::printf("%u batches of %zu bytes, %u words wrong\n", batches, bytes, sum);
  return sum != 0;
}
