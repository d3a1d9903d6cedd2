// Signals every millisecond, without SA_RESTART, while copies and launches run: nothing is disturbed.
#include <signal.h>
#include <sys/time.h>

#include "e2e.h"

static volatile sig_atomic_t signals = 0;
static void handler(int) { signals = signals + 1; }
__global__ void increment(int* x, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i]++;
}

int main() {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigaction(SIGALRM, &action, nullptr);
  itimerval timer = {{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &timer, nullptr);
  const int n = 300'000;
  std::vector<int> host(n);
  int* x;
  CHECK(cudaMalloc(&x, n * sizeof(int)));
  for (int round = 0; round < 20; round++) {
    CHECK(cudaMemcpy(x, host.data(), n * sizeof(int), cudaMemcpyHostToDevice));
    increment<<<4, 256>>>(x, 1000);
    CHECK(cudaMemcpy(host.data(), x, n * sizeof(int), cudaMemcpyDeviceToHost));
  }
  while (signals == 0) {
  }
  timer = {};
  setitimer(ITIMER_REAL, &timer, nullptr);
  std::printf("%d %d, signals seen\n", host[0], host[n - 1]);
}
