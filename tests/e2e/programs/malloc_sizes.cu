// Allocation and release of all kinds of sizes; what is wrong is refused with the driver's code.
#include "e2e.h"

int main() {
  const size_t sizes[] = {1, 255, 256, 257, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 70u << 20};
  void* empty = reinterpret_cast<void*>(1);
  std::printf("0 bytes: %s, null %d\n", name_of(cudaMalloc(&empty, 0)), empty == nullptr);
  for (size_t bytes : sizes) {
    void* memory = nullptr;
    CHECK(cudaMalloc(&memory, bytes));
    auto data = pattern(bytes, unsigned(bytes));
    CHECK(cudaMemcpy(memory, data.data(), bytes, cudaMemcpyHostToDevice));
    cudaPointerAttributes attributes;
    CHECK(cudaPointerGetAttributes(&attributes, static_cast<char*>(memory) + bytes - 1));
    std::printf("%zu bytes: aligned %d, type %d, device %d, same %d\n", bytes, uintptr_t(memory) % 256 == 0,
                attributes.type, attributes.device, hash_device(memory, bytes) == hash_bytes(data.data(), bytes));
    CHECK(cudaFree(memory));
  }
  SHOW(cudaFree(nullptr));
  void* memory;
  SHOW(cudaMalloc(&memory, size_t(1) << 50));
  SHOW(cudaGetLastError());
  SHOW(cudaGetLastError());
  SHOW(cudaMalloc(nullptr, 16));
  CHECK(cudaMalloc(&memory, 4096));
  SHOW(cudaFree(static_cast<char*>(memory) + 512));
  SHOW(cudaFree(memory));
  SHOW(cudaFree(memory));
  std::vector<void*> many(2000);
  for (auto& m : many) CHECK(cudaMalloc(&m, 1000));
  for (auto& m : many) CHECK(cudaFree(m));
  cudaPointerAttributes attributes;
  int local;
  CHECK(cudaPointerGetAttributes(&attributes, &local));
  std::printf("host pointer type %d\n", attributes.type);
}
