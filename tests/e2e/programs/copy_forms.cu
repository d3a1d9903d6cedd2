// Every direction of a one-dimensional copy, in sizes around the borders of what travels inline and in blocks.
#include "e2e.h"

static void round_trip(size_t bytes, cudaStream_t stream) {
  char *first, *second;
  CHECK(cudaMalloc(&first, bytes + 64));
  CHECK(cudaMalloc(&second, bytes + 64));
  CHECK(cudaMemset(first, 0xee, bytes + 64));
  CHECK(cudaMemset(second, 0xee, bytes + 64));
  auto data = pattern(bytes, unsigned(bytes) + 3);
  std::vector<unsigned char> back(bytes + 2, 0x11), host(bytes);
  CHECK(cudaMemcpyAsync(first + 13, data.data(), bytes, cudaMemcpyHostToDevice, stream));
  CHECK(cudaMemcpyAsync(second + 7, first + 13, bytes, cudaMemcpyDeviceToDevice, stream));
  CHECK(cudaMemcpyAsync(back.data() + 1, second + 7, bytes, cudaMemcpyDefault, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaMemcpy(host.data(), back.data() + 1, bytes, cudaMemcpyHostToHost));
  bool margins = back.front() == 0x11 && back.back() == 0x11;
  std::printf("%zu bytes: same %d, margins kept %d, device %016llx\n", bytes, host == data, margins,
              (unsigned long long)hash_device(second, bytes + 64));
  CHECK(cudaFree(first));
  CHECK(cudaFree(second));
}

int main() {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  for (size_t bytes : {size_t(0), size_t(1), size_t(3), size_t(4096), size_t(65535), size_t(65536), size_t(65537),
                       size_t((1 << 20) - 1), size_t(1 << 20), size_t((1 << 20) + 1), size_t(5 * 1000 * 1000)}) {
    round_trip(bytes, stream);
    round_trip(bytes, nullptr);
  }
  char* memory;
  char host[16] = {};
  CHECK(cudaMalloc(&memory, 16));
  SHOW(cudaMemcpy(memory, host, 16, cudaMemcpyKind(77)));
  SHOW(cudaMemcpy(memory, nullptr, 16, cudaMemcpyHostToDevice));
  SHOW(cudaMemcpy(nullptr, host, 16, cudaMemcpyHostToDevice));
  SHOW(cudaMemcpy(nullptr, nullptr, 0, cudaMemcpyHostToDevice));
  SHOW(cudaMemcpy(host, memory, 16, cudaMemcpyDefault));
}
