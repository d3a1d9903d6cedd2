// Overlaps copies and computation: four streams each take every fourth chunk of a pinned buffer to the GPU, work on it
// and bring it back. Events order the streams among themselves and time the whole.
#include <cmath>

#include "check.h"

__global__ void polynomial(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = (x[i] + 3.0f) * x[i] + 1.0f;
}

int main() {
  const int streams = 4, chunks = 16, chunk = 1 << 16, n = chunks * chunk;
  float* host;
  float* device;
  CHECK(cudaMallocHost(&host, n * sizeof(float)));
  CHECK(cudaMalloc(&device, n * sizeof(float)));
  for (int i = 0; i < n; i++) host[i] = float(i % 100);

  cudaStream_t stream[streams];
  for (auto& s : stream) CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  cudaEvent_t start, stop, joined[streams];
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  for (auto& event : joined) CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));

  CHECK(cudaEventRecord(start, stream[0]));
  for (int s = 1; s < streams; s++) CHECK(cudaStreamWaitEvent(stream[s], start));
  for (int c = 0; c < chunks; c++) {
    cudaStream_t s = stream[c % streams];
    size_t bytes = chunk * sizeof(float);
    CHECK(cudaMemcpyAsync(device + c * chunk, host + c * chunk, bytes, cudaMemcpyHostToDevice, s));
    polynomial<<<chunk / 256, 256, 0, s>>>(device + c * chunk, chunk);
    CHECK(cudaMemcpyAsync(host + c * chunk, device + c * chunk, bytes, cudaMemcpyDeviceToHost, s));
  }
  for (int s = 1; s < streams; s++) {
    CHECK(cudaEventRecord(joined[s], stream[s]));
    CHECK(cudaStreamWaitEvent(stream[0], joined[s]));
  }
  CHECK(cudaEventRecord(stop, stream[0]));
  CHECK(cudaEventSynchronize(stop));

  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, start, stop));
  int wrong = 0;
  for (int i = 0; i < n; i++) {
    float x = float(i % 100);
    wrong += host[i] != (x + 3.0f) * x + 1.0f;
  }
  std::printf("streams: %d chunks on %d streams, %d wrong values, time measured: %s\n", chunks, streams, wrong,
              milliseconds >= 0 && std::isfinite(milliseconds) ? "yes" : "no");
  for (auto& s : stream) CHECK(cudaStreamDestroy(s));
  CHECK(cudaFreeHost(host));
  CHECK(cudaFree(device));
  return wrong ? 1 : 0;
}
