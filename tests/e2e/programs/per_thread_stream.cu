// Built with --default-stream per-thread: every host thread has a default stream of its own, which a held-up
// stream of another thread does not delay.
#include <atomic>
#include <thread>

#include "e2e.h"

static std::atomic<bool> gate{false};
static void CUDART_CB wait_for_gate(void*) {
  while (!gate) std::this_thread::yield();
}
__global__ void add(int* x, int n) {
  for (int i = 0; i < n; i++) *x += i;
}

int main() {
  int *held, *running;
  CHECK(cudaMalloc(&held, sizeof(int)));
  CHECK(cudaMalloc(&running, sizeof(int)));
  add<<<1, 1>>>(held, 0);  // a first launch may load code, which waits for everything: not once the gate is shut
  CHECK(cudaMemset(held, 0, sizeof(int)));
  CHECK(cudaMemset(running, 0, sizeof(int)));
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaLaunchHostFunc(nullptr, wait_for_gate, nullptr));
  add<<<1, 1>>>(held, 10);
  std::thread other([&] {
    add<<<1, 1>>>(running, 100);
    SHOW(cudaStreamSynchronize(nullptr));
    SHOW(cudaStreamQuery(cudaStreamPerThread));
    int value = 0;
    CHECK(cudaMemcpy(&value, running, sizeof(int), cudaMemcpyDeviceToHost));
    std::printf("other thread: %d\n", value);
  });
  other.join();
  SHOW(cudaStreamQuery(nullptr));
  gate = true;
  SHOW(cudaStreamSynchronize(nullptr));
  int value = 0;
  CHECK(cudaMemcpy(&value, held, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("main thread: %d\n", value);
}
