// Setting memory: synchronous and on streams, odd sizes and offsets, and kernels that see the result.
#include "e2e.h"

__global__ void count(const unsigned char* memory, int bytes, unsigned char value, int* result) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < bytes; i += gridDim.x * blockDim.x) {
    if (memory[i] == value) atomicAdd(result, 1);
  }
}

int main() {
  const int bytes = 50'001;
  unsigned char* memory;
  int* result;
  CHECK(cudaMalloc(&memory, bytes));
  CHECK(cudaMalloc(&result, sizeof(int)));
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  for (int offset : {0, 1, 2, 3, 5, 16, 4999}) {
    CHECK(cudaMemsetAsync(memory, 0, bytes, stream));
    CHECK(cudaMemsetAsync(result, 0, sizeof(int), stream));
    CHECK(cudaMemsetAsync(memory + offset, 0x1ff, 1000 + offset, stream));
    count<<<4, 128, 0, stream>>>(memory, bytes, 0xff, result);
    int found = 0;
    CHECK(cudaMemcpyAsync(&found, result, sizeof(int), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    std::printf("offset %d: %d bytes set\n", offset, found);
  }
  CHECK(cudaMemset(memory, 9, 0));
  CHECK(cudaMemset(memory, 3, bytes));
  std::printf("%016llx\n", (unsigned long long)hash_device(memory, bytes));
  SHOW(cudaMemset(nullptr, 1, 16));
  SHOW(cudaGetLastError());
  SHOW(cudaMemset(nullptr, 1, 0));
}
