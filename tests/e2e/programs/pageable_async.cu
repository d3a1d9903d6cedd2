// An asynchronous copy from pageable memory has taken its bytes when it returns: overwriting them must not matter.
#include "e2e.h"

int main() {
  const size_t sizes[] = {1, 1000, 65536, 65537, 300'000, 3 << 20};
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  for (size_t bytes : sizes) {
    char* device[4];
    std::vector<unsigned char> source(bytes);
    for (int i = 0; i < 4; i++) {
      CHECK(cudaMalloc(&device[i], bytes));
      std::memset(source.data(), 'a' + i, bytes);
      CHECK(cudaMemcpyAsync(device[i], source.data(), bytes, cudaMemcpyHostToDevice, stream));
      std::memset(source.data(), '!', bytes);
    }
    CHECK(cudaStreamSynchronize(stream));
    for (int i = 0; i < 4; i++) {
      std::vector<unsigned char> expected(bytes, 'a' + i);
      std::printf("%zu bytes %c: %d\n", bytes, 'a' + i,
                  hash_device(device[i], bytes) == hash_bytes(expected.data(), bytes));
      CHECK(cudaFree(device[i]));
    }
  }
}
