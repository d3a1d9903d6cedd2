// Copies to the host that are larger than what the worker stages, two at once, one of them of rows, with work behind them in
// their streams and in another: every byte is what it was when its stream came to the copy.
#include "e2e.h"

constexpr size_t kMiB = 1 << 20;

__global__ void count(int* value) { ++*value; }

struct Copy {
  Copy(size_t mib, size_t pitch) : mib(mib), pitch(pitch) {
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaMalloc(&device, mib * pitch));
    CHECK(cudaMallocHost(&host, mib * kMiB));
    std::memset(host, 0, mib * kMiB);
  }
  void start(unsigned seed) {
    for (size_t i = 0; i < mib; i++) CHECK(cudaMemsetAsync(device + i * pitch, int((i * 37 + seed) & 0xff), kMiB, stream));
    if (pitch == kMiB) CHECK(cudaMemcpyAsync(host, device, mib * kMiB, cudaMemcpyDeviceToHost, stream));
    else CHECK(cudaMemcpy2DAsync(host, kMiB, device, pitch, kMiB, mib, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaMemsetAsync(device, 0xee, mib * pitch, stream));
  }
  size_t wrong(unsigned seed) const {
    size_t count = 0;
    for (size_t i = 0; i < mib; i++) {
      const std::vector<unsigned char> expected(kMiB, static_cast<unsigned char>(i * 37 + seed));
      count += std::memcmp(host + i * kMiB, expected.data(), kMiB) != 0;
    }
    return count;
  }
  size_t mib, pitch;
  cudaStream_t stream;
  unsigned char* device;
  unsigned char* host;
};

int main() {
  Copy large(300, kMiB), other(270, kMiB + 512);
  cudaStream_t third;
  CHECK(cudaStreamCreateWithFlags(&third, cudaStreamNonBlocking));
  int *counter, value;
  CHECK(cudaMalloc(&counter, sizeof *counter));
  CHECK(cudaMemset(counter, 0, sizeof *counter));
  for (unsigned round = 0; round < 2; round++) {
    large.start(round);
    count<<<1, 1, 0, third>>>(counter);
    other.start(round + 100);
    CHECK(cudaStreamSynchronize(third));
    CHECK(cudaMemcpy(&value, counter, sizeof value, cudaMemcpyDeviceToHost));
    CHECK(cudaStreamSynchronize(other.stream));
    std::printf("counted %d, wrong MiB: %zu", value, other.wrong(round + 100));
    CHECK(cudaStreamSynchronize(large.stream));
    std::printf(" and %zu\n", large.wrong(round));
  }
}
