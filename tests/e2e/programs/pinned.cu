// Pinned host memory in all forms; it is ordinary memory for the program and for system calls.
#include <unistd.h>

#include "e2e.h"

int main() {
  const size_t bytes = 300'000;
  char *a, *b, *device;
  CHECK(cudaMallocHost(&a, bytes));
  CHECK(cudaHostAlloc(&b, bytes, cudaHostAllocPortable | cudaHostAllocWriteCombined));
  CHECK(cudaMalloc(&device, bytes));
  auto data = pattern(bytes, 9);
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return 1;
  for (size_t at = 0; at < bytes; at += 1000) {
    if (write(pipe_ends[1], data.data() + at, 1000) != 1000 || read(pipe_ends[0], a + at, 1000) != 1000) return 1;
  }
  CHECK(cudaMemcpyAsync(device, a, bytes, cudaMemcpyHostToDevice));
  CHECK(cudaMemcpyAsync(b, device, bytes, cudaMemcpyDeviceToHost));
  CHECK(cudaDeviceSynchronize());
  std::printf("through a pipe and the device: %d\n", std::memcmp(b, data.data(), bytes) == 0);
  cudaPointerAttributes attributes;
  CHECK(cudaPointerGetAttributes(&attributes, a + 5));
  std::printf("type %d, device %d\n", attributes.type, attributes.device);
  unsigned flags = 0;
  CHECK(cudaHostGetFlags(&flags, b));
  std::printf("portable %d, write combined %d\n", (flags & cudaHostAllocPortable) != 0,
              (flags & cudaHostAllocWriteCombined) != 0);

  std::vector<char> own(bytes + 8192);
  SHOW(cudaHostRegister(own.data(), bytes, cudaHostRegisterDefault));
  SHOW(cudaHostRegister(own.data(), bytes, cudaHostRegisterDefault));
  CHECK(cudaMemcpyAsync(own.data(), device, bytes, cudaMemcpyDeviceToHost));
  CHECK(cudaDeviceSynchronize());
  std::printf("registered: %d\n", std::memcmp(own.data(), data.data(), bytes) == 0);
  SHOW(cudaHostUnregister(own.data()));
  SHOW(cudaHostUnregister(own.data()));
  SHOW(cudaFreeHost(a));
  SHOW(cudaFreeHost(b));
  SHOW(cudaFreeHost(nullptr));
  SHOW(cudaFreeHost(own.data()));
}
