// Copies from and to pinned memory, large and small, dense and in boxes, in stream order with everything else that reads
// and writes the same bytes. Over shm that memory is the worker's, too; nothing here may tell.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "e2e.h"

__global__ void add_one(unsigned char* data, size_t bytes) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < bytes; i += size_t(gridDim.x) * blockDim.x) data[i]++;
}

constexpr size_t kBytes = 3'000'000;

bool all(const unsigned char* data, size_t bytes, unsigned char value) {
  for (size_t i = 0; i < bytes; i++)
    if (data[i] != value) return false;
  return true;
}

// What comes back is sent out again at once, and so on: each copy reads what the one before it wrote.
void round_and_round(unsigned char* pinned, unsigned char* device, cudaStream_t stream) {
  std::memset(pinned, 0, kBytes);
  for (size_t bytes : {kBytes, size_t{100}, size_t{70'000}}) {
    for (int i = 0; i < 4; i++) {
      CHECK(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, stream));
      add_one<<<4, 64, 0, stream>>>(device, bytes);
      CHECK(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream));
    }
  }
  CHECK(cudaStreamSynchronize(stream));
  std::printf("round and round: %d %d %d\n", all(pinned, 100, 12), all(pinned + 100, 69'900, 8), all(pinned + 70'000, kBytes - 70'000, 4));
}

void boxes(unsigned char* pinned, unsigned char* device, cudaStream_t stream) {
  for (size_t i = 0; i < kBytes; i++) pinned[i] = (unsigned char)(i % 251);
  CHECK(cudaMemset(device, 0, kBytes));
  CHECK(cudaMemcpy2DAsync(device, 512, pinned, 1000, 500, 1000, cudaMemcpyHostToDevice, stream));
  add_one<<<4, 64, 0, stream>>>(device, 512 * 1000);
  CHECK(cudaMemcpy2DAsync(pinned + 500, 1000, device, 512, 500, 1000, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  bool right = true;
  for (size_t row = 0; row < 1000; row++)
    for (size_t x = 0; x < 500; x++) right &= pinned[row * 1000 + 500 + x] == (unsigned char)((row * 1000 + x) % 251 + 1);
  std::printf("boxes: %d\n", right);
}

void captured(unsigned char* pinned, unsigned char* device, cudaStream_t stream) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaMemcpyAsync(device, pinned, kBytes, cudaMemcpyHostToDevice, stream));
  add_one<<<4, 64, 0, stream>>>(device, kBytes);
  CHECK(cudaMemcpyAsync(pinned, device, kBytes, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  std::memset(pinned, 20, kBytes);
  for (int i = 0; i < 3; i++) CHECK(cudaGraphLaunch(exec, stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("captured: %d\n", all(pinned, kBytes, 23));
}

void host_function(unsigned char* pinned, unsigned char* device, cudaStream_t stream) {
  std::memset(pinned, 1, kBytes);
  CHECK(cudaLaunchHostFunc(stream, [](void* data) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::memset(data, 50, kBytes);
  }, pinned));
  CHECK(cudaMemcpyAsync(device, pinned, kBytes, cudaMemcpyHostToDevice, stream));
  CHECK(cudaMemsetAsync(pinned, 9, kBytes / 2, stream));
  CHECK(cudaMemcpyAsync(pinned + kBytes / 2, device, kBytes / 2, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("behind a host function: %d %d\n", all(pinned, kBytes / 2, 9), all(pinned + kBytes / 2, kBytes / 2, 50));
}

// The child has what was there, and what it does with it is its own affair.
void forked(unsigned char* pinned) {
  std::memset(pinned, 33, kBytes);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) _exit(all(pinned, kBytes, 33) ? 5 : 6);
  int status = 0;
  waitpid(child, &status, 0);
  std::printf("a child: %d\n", WEXITSTATUS(status));
}

int main() {
  unsigned char *pinned, *device;
  cudaStream_t stream;
  CHECK(cudaMallocHost(&pinned, kBytes));
  CHECK(cudaMalloc(&device, kBytes));
  CHECK(cudaStreamCreate(&stream));
  round_and_round(pinned, device, stream);
  boxes(pinned, device, stream);
  captured(pinned, device, stream);
  host_function(pinned, device, stream);
  forked(pinned);
  CHECK(cudaFreeHost(pinned));
  // Many of them, in and out of order.
  std::vector<unsigned char*> several(40);
  bool kept = true;
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < several.size(); i++) {
      CHECK(cudaMallocHost(&several[i], 100'000 + 10'000 * i));
      std::memset(several[i], int(i), 100'000 + 10'000 * i);
    }
    for (size_t i = 0; i < several.size(); i++) kept &= all(several[i], 100'000 + 10'000 * i, (unsigned char)i);
    for (size_t i = 0; i < several.size(); i++) CHECK(cudaFreeHost(several[(i * 7) % several.size()]));
  }
  std::printf("several: %d\n", kept);
}
