// Managed arrays of the size that courses end with, a few hundred MiB in and out, and the end of the memory.
#include "e2e.h"

__global__ void scale(float* values, size_t n, float factor) {
  size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
  for (; i < n; i += size_t(gridDim.x) * blockDim.x * 64) values[i] *= factor;  // one in 64
}

int main() {
  const size_t n = 16 << 20;
  float* values;
  CHECK(cudaMallocManaged(&values, n * sizeof(float)));
  for (size_t i = 0; i < n; i++) values[i] = float(i % 1000);
  scale<<<32, 256>>>(values, n, 2.0f);
  CHECK(cudaDeviceSynchronize());
  std::printf("%016llx\n", (unsigned long long)hash_bytes(values, n * sizeof(float)));
  for (size_t i = 0; i < n; i += 1000) values[i] = -1.0f;
  scale<<<32, 256>>>(values, n, 3.0f);
  CHECK(cudaDeviceSynchronize());
  std::printf("%016llx\n", (unsigned long long)hash_bytes(values, n * sizeof(float)));
  CHECK(cudaFree(values));
  // Memory is given back: more than the partition, one after the other.
  for (int i = 0; i < 12; i++) {
    CHECK(cudaMallocManaged(&values, 256 << 20));
    values[i] = float(i);
    CHECK(cudaFree(values));
  }
  std::printf("again and again\n");
}
