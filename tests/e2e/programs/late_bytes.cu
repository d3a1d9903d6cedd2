// Uploads whose bytes take their time hold up nothing but what waits for them: other streams and other threads work on.
// --times: how long answers took beside uploads, and how long the uploads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "e2e.h"

// Every 64th word.
__global__ void add(unsigned* sum, const unsigned* data, size_t count) {
  unsigned mine = 0;
  for (size_t i = 64 * threadIdx.x; i < count; i += 64 * blockDim.x) mine += data[i];
  atomicAdd(sum, mine);
}

static double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

int main(int count, char** arguments) {
  const bool times = count > 1 && std::string(arguments[1]) == "--times";
  const size_t bytes = 12 << 20, words = bytes / sizeof(unsigned), odd = 1'200'000;  // cut finer than a large one
  const size_t width = 1000, rows = 3000, all_bytes = bytes + odd + width * rows;
  cudaStream_t uploads, work;
  CHECK(cudaStreamCreateWithFlags(&uploads, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&work, cudaStreamNonBlocking));
  unsigned char *host, *large, *small, *box, *mine;
  size_t pitch;
  unsigned *sum, *answer;
  CHECK(cudaMallocHost(&host, all_bytes));
  CHECK(cudaMallocHost(&answer, sizeof *answer));
  CHECK(cudaMalloc(&large, bytes));
  CHECK(cudaMalloc(&small, odd));
  CHECK(cudaMallocPitch(&box, &pitch, width, rows));
  CHECK(cudaMalloc(&mine, 4096));
  CHECK(cudaMalloc(&sum, 8));
  CHECK(cudaMemset(mine, 1, 4096));
  CHECK(cudaMemset(sum, 0, 8));
  const auto data = pattern(all_bytes, 1);
  std::memcpy(host, data.data(), all_bytes);
  add<<<1, 256>>>(sum, reinterpret_cast<unsigned*>(mine), 0);  // loads it
  CHECK(cudaDeviceSynchronize());

  // Another stream of the same thread.
  auto start = std::chrono::steady_clock::now();
  CHECK(cudaMemcpyAsync(large, host, bytes, cudaMemcpyHostToDevice, uploads));
  CHECK(cudaMemcpyAsync(small, host + bytes, odd, cudaMemcpyHostToDevice, uploads));
  CHECK(cudaMemcpy2DAsync(box, pitch, host + bytes + odd, width, width, rows, cudaMemcpyHostToDevice, uploads));
  add<<<1, 256, 0, uploads>>>(sum, reinterpret_cast<unsigned*>(large), words);
  add<<<1, 256, 0, work>>>(sum + 1, reinterpret_cast<unsigned*>(mine), 1024);
  CHECK(cudaMemcpyAsync(answer, sum + 1, 4, cudaMemcpyDeviceToHost, work));
  CHECK(cudaStreamSynchronize(work));
  const double answered = ms_since(start);
  CHECK(cudaStreamSynchronize(uploads));
  const double uploaded = ms_since(start);
  std::vector<unsigned char> back(all_bytes);
  CHECK(cudaMemcpy(back.data(), large, bytes, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(back.data() + bytes, small, odd, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy2D(back.data() + bytes + odd, width, box, pitch, width, rows, cudaMemcpyDeviceToHost));
  unsigned all = 0, expected = 0;
  CHECK(cudaMemcpy(&all, sum, 4, cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < words; i += 64) expected += reinterpret_cast<const unsigned*>(data.data())[i];
  std::printf("answer %x; uploaded %s, summed %s\n", *answer, back == data ? "right" : "WRONG", all == expected ? "right" : "WRONG");

  // Another thread, beside a copy that its own thread waits for.
  std::atomic<bool> copying{true};
  double longest = 0, copied = 0;
  std::thread uploader([&] {
    const auto begin = std::chrono::steady_clock::now();
    CHECK(cudaMemcpy(large, data.data() + odd, bytes, cudaMemcpyHostToDevice));
    copied = ms_since(begin);
    copying = false;
  });
  while (copying) {
    const auto begin = std::chrono::steady_clock::now();
    add<<<1, 256, 0, work>>>(sum + 1, reinterpret_cast<unsigned*>(mine), 1024);
    CHECK(cudaStreamSynchronize(work));
    longest = std::max(longest, ms_since(begin));
  }
  uploader.join();
  CHECK(cudaMemcpy(back.data(), large, bytes, cudaMemcpyDeviceToHost));
  std::printf("beside a thread: %s\n", std::equal(back.begin(), back.begin() + bytes, data.begin() + odd) ? "right" : "WRONG");
  if (times) std::printf("answers after %.2f of %.2f ms, %.2f of %.2f ms\n", answered, uploaded, longest, copied);
  return 0;
}
