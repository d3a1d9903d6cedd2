// Constant memory and device globals through symbols, with sizes, addresses and asynchronous copies.
#include "e2e.h"

__constant__ int coefficients[256];
__device__ int counter = 41;
__device__ float grid[16][16];
__device__ int untouched;
__constant__ double pi = 3.141592653589793;

__global__ void use(int* out) {
  int i = threadIdx.x;
  out[i] = coefficients[i] + int(pi * 1000);
  atomicAdd(&counter, 1);
  if (i < 16) grid[i][i] = float(i);
}

int main() {
  int host[256], *out, value = 0;
  for (int i = 0; i < 256; i++) host[i] = i * i;
  CHECK(cudaMalloc(&out, sizeof(host)));
  CHECK(cudaMemcpyToSymbol(coefficients, host, sizeof(host)));
  CHECK(cudaMemcpyToSymbol(coefficients, host, 4 * sizeof(int), 8 * sizeof(int)));
  use<<<1, 256>>>(out);
  CHECK(cudaMemcpy(host, out, sizeof(host), cudaMemcpyDeviceToHost));
  std::printf("%d %d %d %d\n", host[0], host[7], host[8], host[255]);
  CHECK(cudaMemcpyFromSymbol(&value, counter, sizeof(value)));
  std::printf("counter %d\n", value);
  value = 7;
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMemcpyToSymbolAsync(counter, &value, sizeof(value), 0, cudaMemcpyHostToDevice, stream));
  use<<<1, 256, 0, stream>>>(out);
  CHECK(cudaMemcpyFromSymbolAsync(&value, counter, sizeof(value), 0, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("counter %d\n", value);
  float cells[256];
  CHECK(cudaMemcpyFromSymbol(cells, grid, sizeof(cells)));
  std::printf("grid %.0f %.0f %.0f\n", cells[0], cells[17], cells[255]);
  CHECK(cudaMemcpyFromSymbol(&value, untouched, sizeof(value)));
  std::printf("untouched %d\n", value);
  void* address = nullptr;
  size_t bytes = 0;
  CHECK(cudaGetSymbolAddress(&address, counter));
  CHECK(cudaGetSymbolSize(&bytes, grid));
  CHECK(cudaMemcpy(&value, address, sizeof(value), cudaMemcpyDeviceToHost));
  std::printf("by address %d, grid is %zu bytes\n", value, bytes);
  SHOW(cudaMemcpyToSymbol(counter, &value, 4, 4));
  SHOW(cudaGetSymbolAddress(&address, host));
}
