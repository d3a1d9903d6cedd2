// 64 host threads at once, each with its own memory, stream and thread-local error state.
#include <thread>

#include "e2e.h"

__global__ void work(unsigned* x, int n, unsigned seed) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = x[i] * 31u + seed + i;
}

int main() {
  const int threads = 64, n = 1000;
  std::vector<std::thread> running;
  std::vector<uint64_t> hashes(threads);
  std::vector<int> own_errors(threads);
  for (int t = 0; t < threads; t++) {
    running.emplace_back([&, t] {
      cudaStream_t stream;
      unsigned* x;
      std::vector<unsigned> host(n, t);
      CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      CHECK(cudaMalloc(&x, n * sizeof(unsigned)));
      for (int round = 0; round < 10; round++) {
        CHECK(cudaMemcpyAsync(x, host.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice, stream));
        for (int k = 0; k < 3; k++) work<<<8, 128, 0, stream>>>(x, n, t * 100 + round);
        CHECK(cudaMemcpyAsync(host.data(), x, n * sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
        CHECK(cudaStreamSynchronize(stream));
      }
      if (t % 2 == 0) cudaSetDevice(1234);  // an error that only this thread sees
      own_errors[t] = cudaGetLastError();
      hashes[t] = hash_bytes(host.data(), n * sizeof(unsigned));
      CHECK(cudaFree(x));
      CHECK(cudaStreamDestroy(stream));
    });
  }
  for (auto& thread : running) thread.join();
  for (int t = 0; t < threads; t++) std::printf("%d %d %016llx\n", t, own_errors[t], (unsigned long long)hashes[t]);
}
