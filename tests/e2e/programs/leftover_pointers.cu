// Large structs as kernel parameters, filled in part: what they hold is followed, into pinned memory too; what was left in
// their tails - the address of a buffer for copies - means nothing.
#include "e2e.h"

struct Task {
  const int* from;
  int* to;
  uint64_t tail[60];
};

__global__ void add(Task task) { *task.to += *task.from; }
__global__ void add_plain(const int* from, int* to) { *to += *from; }

int main() {
  constexpr size_t kBytes = 16 << 20;
  int *buffer, *plain, *device, sum = 0;
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMallocHost(&buffer, kBytes));
  CHECK(cudaMallocHost(&plain, kBytes));
  CHECK(cudaMalloc(&device, kBytes));
  std::memset(buffer, 0, kBytes);
  buffer[0] = 3, plain[0] = 40;
  CHECK(cudaMemcpyAsync(device, buffer, kBytes, cudaMemcpyHostToDevice, stream));
  CHECK(cudaStreamSynchronize(stream));

  Task task{device, device + 1, {}};
  for (uint64_t& word : task.tail) word = reinterpret_cast<uint64_t>(buffer) + 64;
  for (int i = 0; i < 100; i++) add<<<1, 1, 0, stream>>>(task);
  CHECK(cudaMemcpyAsync(&sum, device + 1, sizeof sum, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("from the device, with leftovers: %d\n", sum);

  task.from = plain;
  add<<<1, 1, 0, stream>>>(task);
  CHECK(cudaStreamSynchronize(stream));
  plain[0] = 500;
  add<<<1, 1, 0, stream>>>(task);
  add_plain<<<1, 1, 0, stream>>>(buffer, device + 1);
  CHECK(cudaMemcpy(&sum, device + 1, sizeof sum, cudaMemcpyDeviceToHost));
  std::printf("and from pinned memory: %d\n", sum);
  CHECK(cudaFreeHost(buffer));
  CHECK(cudaFreeHost(plain));
}
