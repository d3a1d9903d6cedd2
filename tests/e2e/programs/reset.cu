// Life after cudaDeviceReset: old objects are gone, new ones work; several times.
#include "e2e.h"

__device__ int persistent = 5;
__global__ void bump() { persistent++; }

int main() {
  for (int round = 0; round < 3; round++) {
    int value = 0;
    char* memory;
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaMalloc(&memory, 5 << 20));
    bump<<<1, 1, 0, stream>>>();
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaMemcpyFromSymbol(&value, persistent, sizeof(int)));
    std::printf("round %d: %d\n", round, value);
    SHOW(cudaDeviceReset());
    SHOW(cudaMemset(memory, 0, 16));
    SHOW(cudaGetLastError());
  }
  SHOW(cudaDeviceReset());
  SHOW(cudaDeviceReset());
}
