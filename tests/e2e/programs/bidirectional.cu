// Large copies in both directions at once, from two threads, pageable and pinned: they always finish.
#include <thread>

#include "e2e.h"

int main(int argc, char** argv) {
  const size_t bytes = 24 << 20;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 6;
  auto up = pattern(bytes, 1), source = pattern(bytes, 2);
  unsigned char *device_up, *device_down, *pinned;
  CHECK(cudaMalloc(&device_up, bytes));
  CHECK(cudaMalloc(&device_down, bytes));
  CHECK(cudaMallocHost(&pinned, bytes));
  CHECK(cudaMemcpy(device_down, source.data(), bytes, cudaMemcpyHostToDevice));
  bool good = true;
  std::thread sender([&] {
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int i = 0; i < rounds; i++)
      CHECK(cudaMemcpyAsync(device_up, up.data(), bytes, cudaMemcpyHostToDevice, stream));
    CHECK(cudaStreamSynchronize(stream));
  });
  std::thread receiver([&] {
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    std::vector<unsigned char> down(bytes);
    for (int i = 0; i < rounds; i++) {
      void* target = i % 2 ? pinned : down.data();
      std::memset(target, 0, bytes);
      CHECK(cudaMemcpyAsync(target, device_down, bytes, cudaMemcpyDeviceToHost, stream));
      CHECK(cudaStreamSynchronize(stream));
      good &= std::memcmp(target, source.data(), bytes) == 0;
    }
  });
  sender.join();
  receiver.join();
  std::printf("down: %d, up: %d\n", good, hash_device(device_up, bytes) == hash_bytes(up.data(), bytes));
}
