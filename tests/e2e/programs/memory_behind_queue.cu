// Memory is made, and ended, while a stream has as many launches queued as a driver holds, all behind a host function that reads
// what a kernel wrote to mapped memory, and writes there itself.
#include <unistd.h>

#include "e2e.h"

__global__ void add(int* counter) { ++*counter; }

static void busy_host(void* data) {
  usleep(30'000);
  *static_cast<int*>(data) *= 2;
}

int main() {
  int* mapped;
  CHECK(cudaHostAlloc(&mapped, 1 << 16, cudaHostAllocMapped));
  *mapped = 1;
  add<<<1, 1>>>(mapped);
  CHECK(cudaDeviceSynchronize());
  auto* own = static_cast<int*>(aligned_alloc(4096, 1 << 16));

  const char* kinds[] = {"mapped", "managed", "device", "registered", "pinned"};
  for (int kind = 0; kind < 5; ++kind) {
    add<<<1, 1>>>(mapped);
    CHECK(cudaLaunchHostFunc(nullptr, busy_host, mapped));
    for (int i = 0; i < 1020; ++i) add<<<1, 1>>>(mapped);
    int* memory = own;
    if (kind == 0) CHECK(cudaHostAlloc(&memory, 1 << 16, cudaHostAllocMapped));
    if (kind == 1) CHECK(cudaMallocManaged(&memory, 1 << 21));
    if (kind == 2) CHECK(cudaMalloc(&memory, 1 << 16));
    if (kind == 3) CHECK(cudaHostRegister(own, 1 << 16, cudaHostRegisterMapped));
    if (kind == 4) CHECK(cudaMallocHost(&memory, 1 << 20));
    CHECK(cudaDeviceSynchronize());
    const int counted = *mapped;
    CHECK(cudaMemset(memory, 0, 4));
    add<<<1, 1>>>(memory);
    int value = 0;
    CHECK(cudaMemcpy(&value, memory, 4, cudaMemcpyDefault));
    std::printf("%s: counted %d, its own %d\n", kinds[kind], counted, value);

    CHECK(cudaLaunchHostFunc(nullptr, busy_host, mapped));
    for (int i = 0; i < 1000; ++i) add<<<1, 1>>>(mapped);
    if (kind == 1 || kind == 2) CHECK(cudaFree(memory));
    if (kind == 0 || kind == 4) CHECK(cudaFreeHost(memory));
    if (kind == 3) CHECK(cudaHostUnregister(own));
    CHECK(cudaDeviceSynchronize());
    *mapped = 1;
  }
  free(own);
  return 0;
}
