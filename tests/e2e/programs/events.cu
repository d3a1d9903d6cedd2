// Events: states while a stream is held up by a host function, order between streams, elapsed times, errors.
#include <atomic>
#include <thread>

#include "e2e.h"

static std::atomic<bool> gate{false};
static void CUDART_CB wait_for_gate(void*) {
  while (!gate) std::this_thread::yield();
}

__global__ void append(int* log, int value) { log[1 + log[0]++] = value; }

int main() {
  cudaStream_t first, second;
  cudaEvent_t event, timed[2];
  CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  for (auto& e : timed) CHECK(cudaEventCreate(&e));
  int* log;
  CHECK(cudaMalloc(&log, 64));
  CHECK(cudaMemset(log, 0, 64));
  append<<<1, 1>>>(log, 0);  // a first launch may load code, which waits for everything: not once the gate is shut
  CHECK(cudaMemset(log, 0, 64));
  CHECK(cudaDeviceSynchronize());
  SHOW(cudaEventQuery(event));  // never recorded
  SHOW(cudaEventSynchronize(event));
  float ms = -1;
  SHOW(cudaEventElapsedTime(&ms, timed[0], timed[1]));

  CHECK(cudaLaunchHostFunc(first, wait_for_gate, nullptr));
  append<<<1, 1, 0, first>>>(log, 1);
  CHECK(cudaEventRecord(event, first));
  CHECK(cudaStreamWaitEvent(second, event));
  append<<<1, 1, 0, second>>>(log, 2);
  SHOW(cudaEventQuery(event));
  SHOW(cudaStreamQuery(first));
  SHOW(cudaStreamQuery(second));
  SHOW(cudaGetLastError());
  gate = true;
  SHOW(cudaEventSynchronize(event));
  SHOW(cudaStreamSynchronize(second));
  SHOW(cudaEventQuery(event));
  SHOW(cudaStreamQuery(first));
  int host[16];
  CHECK(cudaMemcpy(host, log, 64, cudaMemcpyDeviceToHost));
  std::printf("log: %d entries: %d %d\n", host[0], host[1], host[2]);

  CHECK(cudaEventRecord(timed[0], first));
  append<<<1, 1, 0, first>>>(log, 3);
  CHECK(cudaEventRecord(timed[1], first));
  CHECK(cudaEventSynchronize(timed[1]));
  SHOW(cudaEventElapsedTime(&ms, timed[0], timed[1]));
  std::printf("elapsed sensible: %d\n", ms >= 0 && ms < 60'000);
  SHOW(cudaEventElapsedTime(&ms, timed[0], event));
  SHOW(cudaEventRecord(nullptr, first));
  SHOW(cudaEventDestroy(event));
  SHOW(cudaEventCreateWithFlags(&event, 0x80));
}
