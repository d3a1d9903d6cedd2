// Kinds of streams: blocking ones wait for the default stream and it for them, non-blocking ones do not; priorities.
#include <atomic>
#include <thread>

#include "e2e.h"

static std::atomic<bool> gate{false};
static void CUDART_CB wait_for_gate(void*) {
  while (!gate) std::this_thread::yield();
}
__global__ void times(int* x, int factor, int add) { *x = *x * factor + add; }

int main() {
  int* x;
  CHECK(cudaMalloc(&x, sizeof(int)));
  CHECK(cudaMemset(x, 0, sizeof(int)));
  cudaStream_t blocking, free_running, urgent;
  int least = 0, greatest = 0, priority = 0;
  unsigned flags = 0;
  CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CHECK(cudaStreamCreate(&blocking));
  CHECK(cudaStreamCreateWithFlags(&free_running, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithPriority(&urgent, cudaStreamNonBlocking, greatest));
  CHECK(cudaStreamGetPriority(urgent, &priority));
  CHECK(cudaStreamGetFlags(urgent, &flags));
  std::printf("priorities %d..%d, given %d, flags %u\n", least, greatest, priority, flags);

  for (int i = 1; i < 20; i++) {
    cudaStream_t stream = i % 3 == 0 ? blocking : i % 3 == 1 ? cudaStream_t(nullptr) : cudaStreamLegacy;
    times<<<1, 1, 0, stream>>>(x, 3, i);
  }
  int value = 0;
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("blocking streams in order: %d\n", value);

  CHECK(cudaLaunchHostFunc(blocking, wait_for_gate, nullptr));
  times<<<1, 1>>>(x, 0, 5);  // default stream: behind the gate
  int* y;
  CHECK(cudaMallocAsync(&y, sizeof(int), free_running));
  CHECK(cudaMemsetAsync(y, 0, sizeof(int), free_running));
  times<<<1, 1, 0, free_running>>>(y, 0, 8);
  SHOW(cudaStreamSynchronize(free_running));  // does not wait for the gate
  SHOW(cudaStreamQuery(nullptr));
  gate = true;
  SHOW(cudaDeviceSynchronize());
  SHOW(cudaStreamQuery(nullptr));
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("x %d\n", value);
  CHECK(cudaMemcpy(&value, y, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("y %d\n", value);
  times<<<1, 1, 0, urgent>>>(x, 2, 1);
  SHOW(cudaStreamDestroy(urgent));  // work in it still runs
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("x %d\n", value);
  SHOW(cudaStreamDestroy(nullptr));
  unsigned long long id[2] = {};
  CHECK(cudaStreamGetId(blocking, &id[0]));
  CHECK(cudaStreamGetId(free_running, &id[1]));
  std::printf("ids differ: %d\n", id[0] != id[1]);
}
