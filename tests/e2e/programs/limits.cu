// Limits, flags and cache settings read back.
#include "e2e.h"

int main() {
  size_t value = 0;
  for (auto limit : {cudaLimitStackSize, cudaLimitPrintfFifoSize, cudaLimitMallocHeapSize}) {
    CHECK(cudaDeviceGetLimit(&value, limit));
    std::printf("limit %d: %zu\n", limit, value);
  }
  SHOW(cudaDeviceSetLimit(cudaLimitPrintfFifoSize, 4 << 20));
  CHECK(cudaDeviceGetLimit(&value, cudaLimitPrintfFifoSize));
  std::printf("now %zu\n", value);
  SHOW(cudaDeviceSetLimit(cudaLimitStackSize, 4096));
  CHECK(cudaDeviceGetLimit(&value, cudaLimitStackSize));
  std::printf("now at least 4096: %d\n", value >= 4096);
  SHOW(cudaDeviceGetLimit(&value, cudaLimit(99)));
  unsigned flags = 99;
  CHECK(cudaGetDeviceFlags(&flags));
  std::printf("flags %u\n", flags);
  SHOW(cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync));
  CHECK(cudaGetDeviceFlags(&flags));
  std::printf("flags %u\n", flags);
  cudaFuncCache cache;
  SHOW(cudaDeviceSetCacheConfig(cudaFuncCachePreferL1));
  SHOW(cudaDeviceGetCacheConfig(&cache));
  int possible = -1;
  SHOW(cudaDeviceCanAccessPeer(&possible, 0, 0));
  SHOW(cudaDeviceCanAccessPeer(&possible, 0, 77));
}
