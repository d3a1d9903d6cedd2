// 70 MiB up and down, synchronous and asynchronous, pageable and pinned: more than any ring on the way holds.
#include "e2e.h"

__global__ void invert(unsigned* x, size_t n) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    x[i] = ~x[i];
}

int main() {
  const size_t bytes = (70u << 20) + 12, words = 4096;
  auto data = pattern(bytes, 5);
  unsigned char *device, *pinned;
  CHECK(cudaMalloc(&device, bytes));
  CHECK(cudaMallocHost(&pinned, bytes));
  CHECK(cudaMemcpy(device, data.data(), bytes, cudaMemcpyHostToDevice));
  invert<<<8, 128>>>(reinterpret_cast<unsigned*>(device), words);
  invert<<<8, 128>>>(reinterpret_cast<unsigned*>(device + bytes) - words, words);
  CHECK(cudaMemcpy(pinned, device, bytes, cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < words * 4; i++) {
    data[i] = ~data[i];
    data[bytes - 1 - i] = ~data[bytes - 1 - i];
  }
  std::printf("pageable up, pinned down: %d\n", std::memcmp(pinned, data.data(), bytes) == 0);
  CHECK(cudaMemset(device, 0, bytes));
  CHECK(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice));
  std::vector<unsigned char> back(bytes);
  CHECK(cudaMemcpyAsync(back.data(), device, bytes, cudaMemcpyDeviceToHost));
  CHECK(cudaDeviceSynchronize());
  std::printf("pinned up, pageable down: %d\n", back == data);
}
