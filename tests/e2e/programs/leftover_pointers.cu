// Structs with arrays as kernel parameters, filled in part: what they hold is followed, into pinned memory too; what was left in
// their tails - the address of a buffer for copies - means nothing. In a small struct it does.
#include "e2e.h"

template <int kTail>
struct Task {
  const int* from;
  int* to;
  uint64_t tail[kTail];
};

template <int kTail>
__global__ void add(Task<kTail> task) {
  *task.to += *task.from;
}
__global__ void add_plain(const int* from, int* to) { *to += *from; }

cudaStream_t stream;

template <int kTail>
void add_with_leftovers(int* device, int* plain, const int* buffer) {
  Task<kTail> task{device, device + 1, {}};
  for (uint64_t& word : task.tail) word = reinterpret_cast<uint64_t>(buffer) + 64;
  for (int i = 0; i < 100; i++) add<<<1, 1, 0, stream>>>(task);
  int sum = 0;
  CHECK(cudaMemcpyAsync(&sum, device + 1, sizeof sum, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("%zu bytes, from the device, with leftovers: %d\n", sizeof task, sum);
  task.from = plain;
  add<<<1, 1, 0, stream>>>(task);
  CHECK(cudaStreamSynchronize(stream));
  plain[0] += 460;
  add<<<1, 1, 0, stream>>>(task);
  CHECK(cudaMemcpyAsync(&sum, device + 1, sizeof sum, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("and from pinned memory: %d\n", sum);
}

int main() {
  constexpr size_t kBytes = 16 << 20;
  int *buffer, *other, *plain, *device, sum = 0;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMallocHost(&buffer, kBytes));
  CHECK(cudaMallocHost(&other, kBytes));
  CHECK(cudaMallocHost(&plain, kBytes));
  CHECK(cudaMalloc(&device, kBytes));
  std::memset(buffer, 0, kBytes);
  std::memset(other, 0, kBytes);
  buffer[0] = 3, other[0] = 1000, plain[0] = 40;
  CHECK(cudaMemcpyAsync(device, other, kBytes, cudaMemcpyHostToDevice, stream));
  CHECK(cudaMemcpyAsync(device, buffer, kBytes, cudaMemcpyHostToDevice, stream));
  CHECK(cudaStreamSynchronize(stream));
  add_with_leftovers<60>(device, plain, buffer);  // 496 bytes
  add_with_leftovers<25>(device, plain, buffer);  // 216 bytes, as PyTorch has them
  add_with_leftovers<7>(device, plain, buffer);   // 72 bytes

  add<<<1, 1, 0, stream>>>(Task<6>{other, device + 1, {}});  // 64 bytes
  add_plain<<<1, 1, 0, stream>>>(buffer, device + 1);
  CHECK(cudaMemcpy(&sum, device + 1, sizeof sum, cudaMemcpyDeviceToHost));
  std::printf("and from buffers: %d\n", sum);
  CHECK(cudaFreeHost(buffer));
  CHECK(cudaFreeHost(other));
  CHECK(cudaFreeHost(plain));
}
